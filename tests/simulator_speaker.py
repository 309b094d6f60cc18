"""How the simulated model speaks: token by token, until something ends the answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulator_model import Answer, is_special
from tests.simulator_parts import Done, Job, Task

if TYPE_CHECKING:
    from tests.kobold_simulator import KoboldSimulator

PROBABILITY_FLOOR = 1e-4


def hashed_vector(words: list[str], dimensions: int) -> list[float]:
    """Words and their trigrams hashed into a vector of length one, printed with 6 decimals."""
    vector = [0.0] * dimensions
    for word in words:
        grams = [word[at : at + 3] for at in range(len(word) - 2)]
        for feature, weight in [(word, 1.0), *((gram, 0.3) for gram in grams)]:
            digest = hashlib.sha256(feature.encode()).digest()
            sign = 1 if digest[4] & 1 else -1
            vector[int.from_bytes(digest[:4]) % dimensions] += sign * weight
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [round(value / norm, 6) for value in vector]


def held_already(prompt: str, so_far: str, answer: str) -> int:
    """How much of the answer stands at the end of the prompt already: it is continued there."""
    if so_far:
        for lead in (0, len(answer) - len(answer.lstrip())):
            if answer[lead:].startswith(so_far):
                return lead + len(so_far)
    if prompt.endswith(answer):
        return len(answer)
    shortest = 12
    for length in range(len(answer), shortest - 1, -1):
        if prompt.endswith(answer[:length]):
            return length
    return 0


def pieces_held(answer: Answer, so_far: str) -> int:
    """How many tokens of the answer the prompt ends in: a model that is given its own words goes on behind them."""
    said, number = "", 0
    while answer.pieces and len(said) < len(so_far):
        if answer.ends and number >= len(answer.pieces):
            return 0
        said += answer.pieces[number % len(answer.pieces)]
        number += 1
        if said in {so_far, f" {so_far}"}:
            return number
    return 0


class Speaker:
    """Says an answer token by token: limits, EOS, stop sequences, abort, pace."""

    def __init__(
        self,
        simulator: KoboldSimulator,
        task: Task,
        job: Job,
        answer: Answer,
        told: Callable[[str], None] | None,
        *,
        held: int = 0,
    ) -> None:
        self._simulator = simulator
        self._task = task
        self._job = job
        self._answer = answer
        self._told = told
        self._held = held
        self._stops = [stop for stop in task.stops if stop and not is_special(stop)]
        self._ban_eos = task.flag("ban_eos_token", default=task.flag("use_default_badwordsids"))

    def speak(self, done: Done) -> None:
        """Fill in the text, the number of tokens and why it ended."""
        spoken: list[int] = []
        position = self._held if self._answer.ends else self._held % max(len(self._answer.pieces), 1)
        while done.completion_tokens < self._task.max_length and not self._job.aborted:
            if position >= len(self._answer.pieces):
                position = 0
                if self._answer.ends and not (self._ban_eos and self._answer.pieces):
                    done.completion_tokens += 1
                    if self._end(done):
                        break
                    continue
                if not self._answer.pieces:
                    break
            self._say(self._answer.pieces[position])
            spoken.append(position)
            position += 1
            done.completion_tokens += 1
            if any(stop in self._job.text for stop in self._stops):
                done.stop_reason = 2
                break
        done.text = self._trimmed()
        if self._task.flag("logprobs"):
            done.logprobs = self._logprobs(spoken)

    def _end(self, done: Done) -> bool:
        """The model says EOS; with `bypass_eos` it counts and the answer starts again."""
        if self._task.flag("render_special"):
            self._say(self._simulator.chat_adapter().assistant_end.strip(), pace=False)
        if self._task.flag("bypass_eos"):
            return False
        done.stop_reason = 1
        return True

    def _say(self, piece: str, *, pace: bool = True) -> None:
        if pace and self._simulator.tokens_per_s:
            self._simulator._pause(1 / self._simulator.tokens_per_s, lambda: self._job.aborted)
            if self._job.aborted:
                return
        self._job.text += piece
        with self._simulator._changed:
            self._simulator._changed.notify_all()
        if self._told is not None:
            self._told(self._certain())

    def _trimmed(self) -> str:
        text = self._job.text
        if self._task.trim_stop:
            for stop in self._stops:
                text = text.split(stop, 1)[0]
        return text

    def _certain(self) -> str:
        """The text that may be streamed: a possible beginning of a stop sequence waits."""
        text = self._trimmed()
        if not self._task.trim_stop:
            return text
        for length in range(max((len(stop) for stop in self._stops), default=0), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if text):
                return text[:-length]
        return text

    def _logprobs(self, spoken: list[int]) -> dict[str, Any]:
        """After temperature and samplers, floored at 1e-4 (generate_image_logprobs_*)."""
        raw = self._task.body.get("temperature")
        temperature = float(raw) if isinstance(raw, int | float) else 0.7
        if self._task.body.get("top_k") == 1:
            temperature = 0.0
        content = [self._token_logprobs(position, temperature) for position in spoken]
        tokens = [entry["token"] for entry in content]
        offsets, at = [], 0
        for token in tokens:
            offsets.append(at)
            at += len(token)
        return {
            "content": content,
            "tokens": tokens,
            "token_ids": [entry["token_id"] for entry in content],
            "token_logprobs": [entry["logprob"] for entry in content],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in entry["top_logprobs"]} for entry in content
            ],
            "text_offset": offsets,
        }

    def _token_logprobs(self, position: int, temperature: float) -> dict[str, Any]:
        piece = self._answer.pieces[position]
        chances = {piece: 1.0}
        if temperature > 0:
            rival, ratio = self._answer.rivals.get(position, ("", 0.0))
            if ratio > 0:
                chances[rival] = ratio ** (1 / temperature)
            total = sum(chances.values())
            chances = {token: chance / total for token, chance in chances.items()}
            for filler in (" the", " a", ".", ",", "e", " of", "\n", "s", "-", "1", " I"):
                if len(chances) < 10:
                    chances.setdefault(filler, 0.0)
        listed = [
            {"logprob": math.log(max(chance, PROBABILITY_FLOOR)), **self._named(token)}
            for token, chance in sorted(chances.items(), key=lambda item: -item[1])
        ]
        own = math.log(max(chances[piece], PROBABILITY_FLOOR))
        named = self._named(piece)
        return {
            "token": piece,
            "token_id": named["token_id"],
            "logprob": own,
            "bytes": named["bytes"],
            "top_logprobs": listed,
        }

    def _named(self, token: str) -> dict[str, Any]:
        number = self._simulator.tokenizer.id_of(token)
        return {"token": token, "token_id": number, "bytes": list(token.encode())}
