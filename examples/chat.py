"""Talk with an archive. KoboldCpp does everything: it reads the scans, embeds the pages, and answers.

    koboldcpp --model vision-model.gguf --mmproj projector.gguf --embeddingsmodel embedding-model.gguf
    python examples/chat.py scans --archive my-archive --api-url http://127.0.0.1:5001

Needs: pip install ".[chroma]"
"""

import argparse
import sys

from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from kobold_reader import Archive, KoboldLLM, KoboldReader
from kobold_reader.errors import KoboldReaderError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Talk with an archive.")
    parser.add_argument("folder")
    parser.add_argument("--archive", default="chat-archive", help="where the index is kept")
    parser.add_argument("--api-url", default="http://127.0.0.1:5001", help="where KoboldCpp listens")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    llm = KoboldLLM(api_url=arguments.api_url)
    with Archive.open(arguments.archive, create=True, embedder="koboldcpp", api_url=arguments.api_url) as archive:
        reader = KoboldReader(api_url=arguments.api_url, engine=arguments.engine, on_error="skip")
        archive.sync(arguments.folder, reader=reader)

        # "And when?" becomes a whole question, that is searched for, and the pages found answer it. llm= is always
        # given: left out, LlamaIndex would send your questions to a cloud.
        chat = CondenseQuestionChatEngine.from_defaults(
            query_engine=archive.as_query_engine(llm),
            memory=ChatMemoryBuffer.from_defaults(token_limit=1000),
            llm=llm,
        )
        print("Ask away; an empty line ends.")
        for line in sys.stdin:
            if not line.strip():
                break
            response = chat.chat(line.strip())
            print(f"\n{response}")
            for source in response.source_nodes:
                page = source.metadata
                print(f"  [{page['number']}] {page['file_name']}, page {page['page_number']}  {page['link']}")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
