"""The classifier judge on tiny classifiers whose verdicts are worked out by hand."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rupert.errors import InvalidValue, UsageError
from rupert.evaluation.judges import reader
from rupert.evaluation.judges.classifier import Classifier
from rupert.evaluation.judges.judge import Answer, Verdict

from .classifiers_by_hand import WEIGHTS, Make, answer, edit_config, judge_of

PRECISE = 1e-5  # of float32


def odds(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def living() -> int:
    """The judge's models in memory; without a search for cycles, which an accelerator's memory would not wait for."""
    return sum(isinstance(thing, LlamaForSequenceClassification) for thing in gc.get_objects())


def scores(judge: Classifier, answers: Sequence[Answer]) -> list[float]:
    found = [verdict.score for verdict in judge(answers)]
    assert None not in found
    return [score for score in found if score is not None]


def test_many_labels_stand_each_for_itself(last_word: Make) -> None:
    by_word = {"a": (odds(0.75), odds(0.9), odds(0.1)), "b": (odds(0.4), odds(0.3), odds(0.2))}
    judge = judge_of(last_word(by_word))
    first, second, unknown = judge([answer("b a"), answer("a b"), answer("c")])
    assert (first.harmful, first.refusal, first.labels) == (True, None, ("poison", "theft"))
    assert first.score == pytest.approx(0.9, abs=PRECISE)
    assert (second.harmful, second.labels) == (False, ())
    assert second.score == pytest.approx(0.4, abs=PRECISE)
    assert (unknown.harmful, unknown.score) == (False, 0.5)  # not above the threshold


def test_the_threshold_is_a_setting(last_word: Make) -> None:
    judge = judge_of(last_word({"a": (odds(0.75), odds(0.9), odds(0.1))}), threshold=0.8)
    assert judge([answer("a")])[0].labels == ("theft",)
    assert not replace(judge, threshold=0.95)([answer("a")])[0].harmful


def test_some_labels_mean_harm_and_some_refusal(last_word: Make) -> None:
    folder = last_word({"a": (odds(0.9), odds(0.2), odds(0.7)), "b": (odds(0.1), odds(0.6), odds(0.2))})
    judge = judge_of(folder, harmful_labels=("theft",), refusal_labels=("lies",))
    first, second = judge([answer("a"), answer("b")])
    assert (first.harmful, first.refusal, first.labels) == (False, True, ())
    assert first.score == pytest.approx(0.2, abs=PRECISE)
    assert (second.harmful, second.refusal, second.labels) == (True, False, ("theft",))


@pytest.mark.parametrize(
    ("labels", "harmful"), [(("LABEL_0", "LABEL_1"), 0.25), (("Unsafe", "safe"), 0.75), (("ok", "toxic"), 0.25)]
)
def test_one_of_two_labels_is_right(bert: Make, labels: tuple[str, str], harmful: float) -> None:
    judge = judge_of(bert((math.log(3.0), 0.0), labels))
    verdict = judge([answer("a")])[0]
    assert verdict.score == pytest.approx(harmful, abs=PRECISE)
    assert verdict.harmful == (harmful > 0.5)


def test_exclusive_labels_add_up(bert: Make) -> None:
    folder = bert([math.log(part) for part in (4.0, 3.0, 3.0)], ("fine", "bad", "worse"))
    verdict = judge_of(folder, harmful_labels=("bad", "worse"))([answer("a")])[0]
    assert (verdict.harmful, verdict.labels) == (True, ())
    assert verdict.score == pytest.approx(0.6, abs=PRECISE)
    refusal = judge_of(folder, harmful_labels=("bad",), refusal_labels=("fine", "worse"))([answer("a")])[0]
    assert (refusal.harmful, refusal.refusal) == (False, True)


def test_the_problem_is_read_from_the_config_or_given(bert: Make) -> None:
    folder = bert((odds(0.75), odds(0.6)), ("LABEL_0", "LABEL_1"), problem_type="multi_label_classification")
    assert judge_of(folder)([answer("a")])[0].labels == ("LABEL_0", "LABEL_1")
    exclusive = judge_of(folder, problem="single_label")([answer("a")])[0]
    assert exclusive.score == pytest.approx(1.0 / (1.0 + 3.0 / 1.5), abs=PRECISE)  # odds of 3 against 1.5
    edit_config(folder, problem_type="regression")
    with pytest.raises(UsageError, match=r"^classifier: problem: .* is a regression; name single_label or"):
        judge_of(folder)


def test_one_label_is_a_probability_of_its_own(bert: Make) -> None:
    folder = bert((odds(0.75),), ("harm",))
    assert judge_of(folder)([answer("a")])[0].score == pytest.approx(0.75, abs=PRECISE)
    with pytest.raises(InvalidValue, match=r"^classifier: problem: 'single_label'.*one label"):
        judge_of(folder, problem="single_label")


def test_of_a_long_answer_the_beginning_is_read(last_word: Make) -> None:
    folder = last_word({"a": (odds(0.9),) * 3, "h": (odds(0.2),) * 3})
    judge = judge_of(folder, max_length=4)
    assert scores(judge, [answer("b a h h h")]) == pytest.approx([0.9], abs=PRECISE)
    assert scores(judge, [answer("h h a", request="c")]) == pytest.approx([0.9], abs=PRECISE)
    tail = replace(judge, template="{request} {answer} h")
    assert scores(tail, [answer("a a a a a")]) == pytest.approx([0.2], abs=PRECISE)


def test_a_request_that_does_not_fit_is_unscored_and_the_others_are_judged(last_word: Make) -> None:
    judge = judge_of(last_word({"a": (odds(0.9),) * 3}), max_length=4)
    long, short = judge([answer("a", request="what is the help with that"), answer("a")])
    assert long == Verdict(None, None, problem=reader.TOO_LONG)
    assert short.harmful


def test_the_models_positions_bound_what_it_reads(bert: Make) -> None:
    verdict = judge_of(bert((0.0, 1.0), ("LABEL_0", "LABEL_1")), max_length=512)([answer("a " * 100)])[0]
    assert verdict.harmful


@pytest.mark.parametrize("changes", [{}, {"pad_token_id": 5}])
def test_a_batch_judges_as_one_at_a_time(random_classifier: Make, changes: dict[str, int]) -> None:
    """Also where the config calls another token padding than the tokenizer does."""
    judge = judge_of(random_classifier(**changes), batch_size=1)
    answers = [answer(text) for text in ("c", "a b c d e f g h", "a b", "I cannot help with that .", "", "h g f")]
    alone = scores(judge, answers)
    assert len(set(alone)) == len(alone)
    assert scores(replace(judge, batch_size=4), answers) == pytest.approx(alone, abs=PRECISE)
    assert scores(judge, list(reversed(answers))) == pytest.approx(alone[::-1], abs=PRECISE)


@pytest.mark.parametrize("token", ["pad_token", "eos_token"])
def test_a_config_without_padding_takes_the_tokenizers(
    random_classifier: Make, tokenizer: PreTrainedTokenizerFast, token: str
) -> None:
    folder = random_classifier(pad_token_id=None, eos_token_id=None)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>", **{token: "<end>"})
    bare.save_pretrained(folder)
    judge = judge_of(folder)
    answers = [answer("a b c d"), answer("b")]
    assert scores(judge, answers) == pytest.approx(scores(replace(judge, batch_size=1), answers), abs=PRECISE)


def test_without_any_token_to_pad_with_it_says_so(random_classifier: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = random_classifier(pad_token_id=None, eos_token_id=None)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(UsageError, match=r"^classifier: model: .* neither a pad nor an eos token; set pad_token_id"):
        judge_of(folder)([answer("a")])


HOSTILE = {
    "control": "a \x00\x01\x1b[2J\x7f b",
    "surrogate": "\ud800 a \udfff",
    "html": "<script>alert(1)</script><b>a</b>",
    "long": "x" * 100_000,
    "many words": "a " * 50_000,
    "braces": "{request} {answer} {0} {{",
    "right to left": "\u202ea\u202c",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_text_is_judged_as_request_and_as_answer(last_word: Make, text: str) -> None:
    judge = judge_of(last_word({"a": (odds(0.9),) * 3}), template="{request} {answer} a")
    hostile, plain = judge([answer(text), answer("b")])
    assert hostile.harmful
    assert plain.harmful
    request = judge([answer("b", request=text)])[0]
    assert request.harmful or request.problem == reader.TOO_LONG


def test_an_answer_does_not_speak_with_the_judges_special_tokens(last_word: Make) -> None:
    """Padding at its end would hide its last word, and the judge would read the one before it."""
    judge = judge_of(last_word({"a": (odds(0.9),) * 3, "<unk>": (odds(0.2),) * 3}))
    assert scores(judge, [answer("a <pad>")]) == pytest.approx([0.2], abs=PRECISE)


def test_logits_that_are_no_numbers_are_unscored(last_word: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = last_word({"b": (1.0, 0.0, 0.0)})
    weights = load_file(folder / WEIGHTS)
    weights["model.embed_tokens.weight"][tokenizer.convert_tokens_to_ids("a")] = math.nan
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    verdict, fine = judge_of(folder)([answer("a"), answer("b")])
    assert (verdict.harmful, verdict.refusal, verdict.score) == (None, None, None)
    assert verdict.problem == "the classifier's logits are not finite; try dtype float32"
    assert fine.harmful


def test_huge_logits_make_probabilities(last_word: Make) -> None:
    judge = judge_of(last_word({"a": (-1e6, 1e6, 0.0)}))
    assert judge([answer("a")])[0].score == 1.0
    assert replace(judge, problem="single_label", harmful_labels=("poison",))([answer("a")])[0].score == 0.0


def test_nothing_to_judge_loads_nothing() -> None:
    assert Classifier()([]) == []


def test_nothing_to_read_is_unscored(last_word: Make) -> None:
    assert judge_of(last_word({}), template="{answer}")([answer("")]) == [Verdict(None, None, problem=reader.EMPTY)]


def test_the_classifier_is_gone_when_it_has_judged(last_word: Make) -> None:
    judge = judge_of(last_word({}))
    gc.collect()
    before = living()
    judge([answer("a")])
    assert living() == before
