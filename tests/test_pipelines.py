# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pipelines on texts of more than 512 tokens: what they say, what they refuse, and that nothing is cut in silence."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from test_finetune_question_answering import bert_like, byte_like
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    TokenClassificationPipeline,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY, PipelineException

import ernie_sparse
from ernie_sparse import cli, pipeline_tasks, pipelines
from ernie_sparse.errors import InputError
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.late_imports import when_imported
from ernie_sparse.pipelines import QuestionAnsweringPipeline

LENGTH = 1200
LETTERS = "a b c d e f g h "
LONG = LETTERS * 125  # 1,002 tokens
TOO_LONG = LETTERS * 200
TOKENS = "1602 tokens, more than .*=1200"


def tokenizer_of(tokenizer: PreTrainedTokenizerFast, model_max_length: int = LENGTH) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.model_max_length = model_max_length
    return tokenizer


BERT = tokenizer_of(bert_like())
ROBERTA = tokenizer_of(byte_like(processors.RobertaProcessing(("</s>", 2), ("<s>", 0))))
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def make_model(head: str, tokenizer=BERT, **config):
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "block_size": 16, **config}
    return getattr(ernie_sparse, f"ErnieSparse{head}")(ernie_sparse.ErnieSparseConfig(**sizes)).eval()


def make_pipe(task: str, head: str, **options):
    return pipeline(task, model=make_model(head, **options), tokenizer=BERT, device="cpu")


@torch.no_grad()
def direct(pipe, *texts, **how):
    return pipe.model(**pipe.tokenizer(*texts, return_tensors="pt", **how))


def test_masks_are_filled_in_long_texts():
    pipe = make_pipe("fill-mask", "ForMaskedLM")
    text = f"{LONG}[MASK] {LETTERS}"
    best = pipe(text, top_k=3)
    place = BERT(text)["input_ids"].index(BERT.mask_token_id)
    assert place > 900
    scores, tokens = direct(pipe, text).logits[0, place].softmax(-1).topk(3)
    assert [one["token"] for one in best] == tokens.tolist()
    assert [one["score"] for one in best] == pytest.approx(scores.tolist(), rel=1e-5)
    with pytest.raises(ValueError, match=r"1603 tokens, more than .*=1200"):
        pipe(f"{TOO_LONG}[MASK]")
    assert pipe(f"[MASK] {TOO_LONG}", tokenizer_kwargs={"truncation": True})
    with pytest.raises(PipelineException, match="No mask_token"):
        pipe(f"{TOO_LONG}[MASK]", tokenizer_kwargs={"truncation": True})


def test_long_texts_are_classified_alone_and_in_batches_and_are_cut_when_asked():
    pipe = make_pipe("text-classification", "ForSequenceClassification", num_labels=3)
    texts = [LONG, LETTERS, LONG[:333], "a"]
    alone = [pipe(text, top_k=None) for text in texts]
    for text, found in zip(texts, alone, strict=True):
        scores = direct(pipe, text).logits[0].softmax(-1)
        labels = {one["label"]: one["score"] for one in found}
        assert [labels[f"LABEL_{i}"] for i in range(3)] == pytest.approx(scores.tolist(), rel=1e-5)
    for one, other in zip(alone, pipe(texts, top_k=None, batch_size=3), strict=True):
        assert [label["label"] for label in one] == [label["label"] for label in other]
        assert [label["score"] for label in one] == pytest.approx([label["score"] for label in other], rel=1e-5)
    with pytest.raises(ValueError, match=TOKENS):
        pipe(TOO_LONG)
    cut = pipe(TOO_LONG, truncation=True)[0]["score"]
    assert cut == pytest.approx(float(direct(pipe, TOO_LONG[: 2 * (LENGTH - 2)]).logits.softmax(-1).max()), rel=1e-5)


def test_features_of_long_texts_are_hidden_states():
    pipe = make_pipe("feature-extraction", "Model")
    found = pipe(LONG, return_tensors=True)
    assert found.shape == (1, 1002, 16)
    torch.testing.assert_close(found, direct(pipe, LONG).last_hidden_state)
    for one, other in zip(pipe([LONG, "a b"], batch_size=2), (found, pipe("a b")), strict=True):
        np.testing.assert_allclose(np.array(one)[:, : np.shape(other)[1]], other, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=TOKENS):
        pipe(TOO_LONG)
    assert pipe(TOO_LONG, return_tensors=True, truncation=True).shape == (1, LENGTH, 16)


def test_all_tokens_of_long_texts_are_tagged_or_the_text_is_refused():
    pipe = make_pipe("ner", "ForTokenClassification", num_labels=2)
    found = pipe(LONG, ignore_labels=[])
    assert [LONG[one["start"] : one["end"]] for one in found] == LONG.split()
    scores = direct(pipe, LONG).logits[0, 1:-1].softmax(-1).max(-1).values
    assert [one["score"] for one in found] == pytest.approx(scores.tolist(), rel=1e-5)
    words = ["ab"] * 300
    (in_words,) = pipe(words, is_split_into_words=True, ignore_labels=[])
    assert [" ".join(words)[one["start"] : one["end"]] for one in in_words] == ["a", "b"] * 300
    for text, how in (([TOO_LONG], {}), (TOO_LONG.split(), {"is_split_into_words": True})):
        with pytest.raises(InputError, match=f"{TOKENS}.*stride.*truncation=True"):
            pipe(text, **how)
        (cut,) = pipe(text, **how, truncation=True, ignore_labels=[])
        assert len(cut) == LENGTH - 2
    # A text that just fits is whole.
    assert len(pipe(TOO_LONG[: 2 * (LENGTH - 2)], ignore_labels=[])) == LENGTH - 2
    with pytest.raises(InputError, match="1201 tokens"):
        pipe(TOO_LONG[: 2 * (LENGTH - 1)])


def test_a_stride_reads_texts_of_any_length_in_windows():
    pipe = make_pipe("ner", "ForTokenClassification", id2label={0: "O", 1: "B-ONE"}, label2id={"O": 0, "B-ONE": 1})
    knowing(pipe.model, BERT)
    pipe.model.classifier.weight.data[1, 0] = 1.0
    # Wherever a window may end.
    text = "".join(f"1 {LETTERS[: 2 * (i % 7)]}" for i in range(1000))
    found = pipe(text, stride=100, aggregation_strategy="simple")
    assert len(BERT(text)["input_ids"]) > 3 * LENGTH
    assert [one["start"] for one in found] == [match.start() for match in re.finditer("1", text)]
    assert {(one["word"], one["entity_group"]) for one in found} == {("1", "ONE")}


def test_texts_are_classified_without_training_or_refused():
    labels = {"entailment": 0, "neutral": 1, "contradiction": 2}
    names = {number: name for name, number in labels.items()}
    pipe = make_pipe("zero-shot-classification", "ForSequenceClassification", label2id=labels, id2label=names)
    found = pipe([LONG, LETTERS], ["ab", "ba", "hg"], hypothesis_template="it is {}", batch_size=2)
    for text, one in zip((LONG, LETTERS), found, strict=True):
        logits = {label: float(direct(pipe, text, f"it is {label}").logits[0, 0]) for label in ("ab", "ba", "hg")}
        assert one["labels"] == sorted(logits, key=logits.get, reverse=True)
        shares = torch.tensor([logits[label] for label in one["labels"]]).softmax(0)
        assert one["scores"] == pytest.approx(shares.tolist(), rel=1e-4)
    template = "it is {}"
    num_tokens = len(BERT(TOO_LONG, "it is ab")["input_ids"])
    with pytest.raises(InputError, match=f"{num_tokens} tokens, more than .*=1200.*truncation=True"):
        pipe(TOO_LONG, ["ab"], hypothesis_template=template)
    head = TOO_LONG[: 2 * (LENGTH - num_tokens + 1600)]
    for text, how in ((TOO_LONG, {"truncation": True}), (head, {})):
        cut = pipe(text, ["ab", "ba"], hypothesis_template=template, **how)
        assert cut["scores"] == pytest.approx(pipe(head, ["ab", "ba"], hypothesis_template=template)["scores"])
    with pytest.raises(InputError, match="1201 tokens"):
        pipe(head + "a", ["ab"], hypothesis_template=template)


def test_models_of_others_keep_the_pipelines_of_transformers():
    model = BertForTokenClassification(BertConfig(**SIZES, vocab_size=len(BERT), max_position_embeddings=64))
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer_of(bert_like(), 64), device="cpu")
    assert type(pipe) is TokenClassificationPipeline
    assert len(pipe(LONG, ignore_labels=[])) == 62
    assert isinstance(make_pipe("token-classification", "ForTokenClassification"), TokenClassificationPipeline)


@torch.no_grad()
def knowing(model, tokenizer):
    """
    A model whose logits depend on the token alone: answers begin with a 1 and end with a 2, and the first token, no answer,
    scores between a span with one of them and one with both.
    """
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
    words, vocabulary = model.get_input_embeddings().weight, tokenizer.get_vocab()
    for token in ("1", "##1", "2", "##2"):
        if token in vocabulary:
            words[vocabulary[token], int(token[-1]) - 1] = 1.0
    words[tokenizer("")["input_ids"][0], 2] = 1.0
    if hasattr(model, "qa_outputs"):
        model.qa_outputs.weight[:, :3] = torch.tensor([[4.0, 0.0, 2.9], [0.0, 4.0, 2.9]])
    return model.eval()


def make_reader(tokenizer=BERT, **options) -> QuestionAnsweringPipeline:
    model = knowing(make_model("ForQuestionAnswering", tokenizer), tokenizer)
    return pipeline("question-answering", model=model, tokenizer=tokenizer, device="cpu", **options)


def random_reader(**options) -> QuestionAnsweringPipeline:
    """Its logits are spread widely enough for no two spans to be as good."""
    model = make_model("ForQuestionAnswering")
    with torch.no_grad():
        model.qa_outputs.weight *= 200
    return pipeline("question-answering", model=model, tokenizer=BERT, device="cpu", **options)


CONTEXTS = [f"{LETTERS * (place // 8)} 1 b  c, 2 {LETTERS * 60}" for place in range(0, 1600, 152)]


@pytest.mark.parametrize("tokenizer", [BERT, pytest.param(ROBERTA, marks=pytest.mark.slow)], ids=["bert", "bytes"])
def test_answers_are_found_wherever_they_stand_in_contexts_of_any_length(tokenizer):
    pipe = make_reader(tokenizer)
    for options in ({}, {"max_seq_len": 90, "doc_stride": 20}, {"max_seq_len": 150, "batch_size": 5}):
        found = pipe(question="where is it?", context=CONTEXTS, **options)
        for context, one in zip(CONTEXTS, found, strict=True):
            assert set(one) == {"score", "start", "end", "answer"}
            assert one["answer"] == "1 b  c, 2" == context[one["start"] : one["end"]]
            assert one["start"] == context.index("1")


def test_places_are_those_of_the_context_as_given():
    pipe = make_reader()
    for context in ("  \n1 é\u0301 \U0001f600 2  ", "ÀÉ" * 300 + "\t1\u200b2"):
        found = pipe({"question": " where? ", "context": context, "id": "a1", "title": "x"})
        assert (
            found["answer"]
            == context[found["start"] : found["end"]]
            == context[context.index("1") : context.index("2") + 1]
        )


def test_the_same_questions_in_all_forms_have_the_same_answers():
    pipe = random_reader(max_seq_len=300)
    contexts = [LONG, LONG[4:600], "a b", LONG * 2]
    rows = [{"id": str(i), "question": "where a?", "context": context} for i, context in enumerate(contexts)]
    alone = [pipe(question="where a?", context=context) for context in contexts]
    forms = [
        pipe(rows),
        pipe(tuple(rows)),
        pipe(row for row in rows),
        pipe(question=["where a?"] * 4, context=contexts),
        pipe(question="where a?", context=contexts, batch_size=3),
        pipe(rows, batch_size=16),
        [pipe(row) for row in rows],
    ]
    for form in forms:
        for one, other in zip(form, alone, strict=True):
            assert one | {"score": 0} == other | {"score": 0}
            assert one["score"] == pytest.approx(other["score"], rel=1e-4)
    assert len({one["start"] for one in alone}) > 1
    assert pipe([]) == [] and pipe(rows[:1]) == alone[:1]


def test_the_best_answers_are_listed_once_each_and_no_answer_stands_among_them():
    pipe = random_reader(max_seq_len=300)
    best = pipe(question="where a?", context=LONG, top_k=8)
    assert len(best) == 8 == len({one["answer"] for one in best})
    assert [one["score"] for one in best] == sorted((one["score"] for one in best), reverse=True)
    assert all(LONG[one["start"] : one["end"]] == one["answer"] for one in best)
    assert pipe(question="where a?", context=LONG) == best[0]
    assert len(pipe(question="where a?", context=LONG, top_k=30)) > 20
    pipe = make_reader()
    assert pipe(question="where?", context="a b", top_k=9, handle_impossible_answer=True)[0]["answer"] == ""
    found = pipe(question="where?", context="a 1 b 2", top_k=99, handle_impossible_answer=True)
    places = {one["answer"]: place for place, one in enumerate(found)}
    assert places["1 b 2"] == 0 and 0 < places[""] < places["a"]
    assert sum(one["score"] for one in found) == pytest.approx(1)


def test_there_may_be_no_answer_if_that_is_asked_for():
    pipe = make_reader(handle_impossible_answer=True)
    context = f"{LONG}1 b"
    assert pipe(question="where?", context=context) | {"score": 0} == {"score": 0, "start": 0, "end": 0, "answer": ""}
    assert pipe(question="where?", context=context, handle_impossible_answer=False)["answer"] != ""
    assert pipe(question="where?", context=f"{context} 2", max_seq_len=64)["answer"] == "1 b 2"
    assert make_reader()(question="where?", context=context)["answer"] != ""
    # Of nothing but what the tokenizer deletes there is no other answer.
    assert make_reader()(question="where?", context="\u200b\u200b")["answer"] == ""


def test_answers_are_as_long_as_allowed_and_of_whole_words_if_asked():
    pipe = make_reader()
    context = f"{LONG} ab1cd e f2gh a"
    found = pipe(question="where?", context=context)
    assert found["answer"] == "1cd e f2"
    words = pipe(question="where?", context=context, align_to_words=True)
    assert words["answer"] == "ab1cd e f2gh" == context[words["start"] : words["end"]]
    assert pipe(question="where?", context=context, max_answer_len=6)["answer"] == "1cd e f2"
    assert len(pipe(question="where?", context=context, max_answer_len=5)["answer"].replace(" ", "")) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_answers_are_those_of_predict(tmp_path, threshold):
    reader = random_reader()
    chosen = Settings(
        task_type="question_answering",
        max_length=LENGTH,
        block_size=16,
        num_global_tokens=16,
        columns={"question": "question", "context": "context"},
        stride=70,
        max_answer_length=9,
        null_threshold=threshold,
    )
    reader.save_pretrained(tmp_path / "reader")
    chosen.save(tmp_path / "reader")
    # As long as the tokenizer says, though the model reads more.
    tokenizer_of(bert_like(), 200).save_pretrained(tmp_path / "reader")
    contexts = [*CONTEXTS[::5], "a b", LONG * 3, *(LONG[i : 450 * i] for i in (2, 3, 4))]
    rows = [{"id": f"r{i}", "question": f"where {LETTERS[i : 2 * i]}", "context": c} for i, c in enumerate(contexts)]
    source, target = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "predict",
        "--model",
        str(tmp_path / "reader"),
        "--input-file",
        str(source),
        "--output-file",
        str(target),
    ]
    assert cli.main(command) in (None, 0)
    predictions = [json.loads(line) for line in target.read_text().splitlines()]
    pipe = pipeline("question-answering", model=str(tmp_path / "reader"), device="cpu")
    for batch_size in (1, 4):
        answers = pipe(rows, batch_size=batch_size)
        for one, prediction in zip(answers, predictions, strict=True):
            assert one["answer"] == prediction["answer"]
            assert (one["start"], one["end"]) == (prediction["start"] or 0, prediction["end"] or 0)
            assert one["score"] == pytest.approx(prediction["probability"], rel=1e-3)
    lists = pipe(rows, top_k=21, handle_impossible_answer=False)
    for answers, prediction in zip(lists, predictions, strict=True):
        assert [(one["answer"], one["start"]) for one in answers][:5] == [
            (best["text"], best["start"]) for best in prediction["n_best"]
        ][:5]
    assert len({one["answer"] for one in pipe(rows)}) > 3


def test_the_settings_of_training_come_from_the_hub_too(tmp_path, monkeypatch):
    model = make_model("ForQuestionAnswering")
    model.name_or_path = "someone/reader"
    columns = {"question": "question", "context": "context"}
    chosen = Settings.of(
        model.config, LENGTH, task_type="question_answering", columns=columns, stride=7, null_threshold=2.0
    )
    chosen.save(tmp_path)
    asked = []

    def download(name: str, file: str) -> str:
        asked.append(name)
        if len(asked) > 1:
            raise EntryNotFoundError("none")
        return str(tmp_path / file)

    monkeypatch.setattr(pipelines, "hf_hub_download", download)
    assert QuestionAnsweringPipeline(model=model, tokenizer=BERT, device="cpu").settings == chosen
    default = QuestionAnsweringPipeline(model=model, tokenizer=BERT, device="cpu").settings
    assert (default.stride, default.null_threshold) == (128, None) and asked == ["someone/reader"] * 2


def bert_reader(tokenizer=BERT, **config):
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=64, **config)
    return knowing(BertForQuestionAnswering(config), tokenizer)


def test_models_of_others_answer_too(tmp_path):
    model = bert_reader()
    model.save_pretrained(tmp_path)
    tokenizer_of(bert_like(), 10**30).save_pretrained(tmp_path)
    pipe = pipeline("question-answering", model=str(tmp_path), device="cpu")
    assert isinstance(pipe.model, BertForQuestionAnswering) and pipe.settings.max_length == 64
    assert pipe(question="where is it?", context=CONTEXTS[7])["answer"] == "1 b  c, 2"
    pipe = pipeline("question-answering", model=model, tokenizer=tokenizer_of(bert_like(), 50), device="cpu")
    assert pipe.settings.max_length == 50
    # Two of its positions stand for no token.
    config = RobertaConfig(**SIZES, vocab_size=len(ROBERTA), max_position_embeddings=66, pad_token_id=1)
    model = knowing(RobertaForQuestionAnswering(config), ROBERTA)
    pipe = pipeline("question-answering", model=model, tokenizer=ROBERTA, device="cpu")
    assert pipe.settings.max_length == 64
    assert pipe(question="where is it?", context=CONTEXTS[7])["answer"] == "1 b  c, 2"
    with pytest.raises(InputError, match="max_seq_len=65 is more than the 64 tokens"):
        pipe(question="where is it?", context=LONG, max_seq_len=65)


def test_a_pipeline_is_saved_without_its_code(tmp_path):
    pipe = make_reader()
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*pipeline*"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    again = pipeline("question-answering", model=str(tmp_path), device="cpu")
    assert again(question="where?", context=CONTEXTS[3]) == pipe(question="where?", context=CONTEXTS[3])


GOOD = {"question": "where?", "context": LONG}


@pytest.mark.parametrize(
    "example, message",
    [
        ({**GOOD, "question": ""}, "the question is empty"),
        ({**GOOD, "context": " \n"}, "the context is empty"),
        ({"context": LONG}, "the question has to be text: it is missing"),
        ({**GOOD, "context": 7}, "the context has to be text: 7"),
        ({**GOOD, "context": ["a", "b"]}, r"the context has to be text: \['a', 'b'\]"),
        ({**GOOD, "context": "a \ud800"}, "the context holds half of a character at place 2"),
        ([GOOD, "a b"], "example 1: an example is a dict of question and context: str is none"),
        ([GOOD, {**GOOD, "question": None}], "example 1: the question has to be text: it is missing"),
        ("a b", "an example is a dict of question and context: str is none"),
        (7, "an example is a dict of question and context: int is none"),
        ({**GOOD, "question": "a " * 700}, "the question has 700 tokens, more than the 600 "),
    ],
)
def test_what_is_no_question_is_refused(example, message):
    with pytest.raises(InputError, match=message):
        make_reader()(example)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"doc_stride": 50, "max_seq_len": 50}, "a stride of 50 tokens makes no progress in windows of 50"),
        ({"doc_stride": 5000}, "a stride of 5000 tokens makes no progress"),
        ({"doc_stride": -1}, "doc_stride=-1: a whole number of at least 0 is needed"),
        ({"max_seq_len": 5}, "makes no progress in windows of 5"),
        ({"max_seq_len": LENGTH + 1}, "max_seq_len=1201 is more than the 1200 tokens that the model reads"),
        ({"max_seq_len": "300"}, "max_seq_len='300': a whole number"),
        ({"top_k": 0}, "top_k=0: a whole number of at least 1"),
        ({"top_k": True}, "top_k=True: a whole number"),
        ({"max_answer_len": 2.5}, "max_answer_len=2.5: a whole number"),
        ({"align_to_words": "no"}, "align_to_words='no': True or False"),
        ({"topk": 3}, "topk is unknown: top_k, doc_stride"),
    ],
)
def test_parameters_that_cannot_be_are_refused_at_once_and_in_calls(options, message):
    with pytest.raises(InputError, match=message):
        make_reader(**options)
    with pytest.raises(InputError, match=message):
        make_reader()(**GOOD, **options)


def test_more_that_is_refused():
    pipe = make_reader()
    with pytest.raises(InputError, match="7 tokens, more than the 6 that are allowed by max_question_len"):
        pipe(question="a b c d e f g", context=LONG, max_question_len=6)
    assert pipe(question="a b c d e f g", context=LONG, max_question_len=7)
    with pytest.raises(InputError, match="2 questions and 3 contexts"):
        pipe(question=["a", "b"], context=["a", "b", "c"])
    with pytest.raises(InputError, match="only one of both"):
        pipe([GOOD], question="a")
    with pytest.raises(InputError, match="fast tokenizer"):
        pipeline("question-answering", model=pipe.model, tokenizer=ByT5Tokenizer(), device="cpu")
    with torch.no_grad():
        pipe.model.qa_outputs.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        pipe(GOOD)


IN_A_NEW_PROCESS = """
import sys
import ernie_sparse
print("transformers.pipelines" in sys.modules)
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY, check_task
print([name for name in ("datasets", "ernie_sparse.pipelines", "ernie_sparse.uncut_pipelines") if name in sys.modules])
print(check_task("question-answering")[1]["impl"].__name__, check_task("ner")[1]["impl"].__name__)
"""


@pytest.mark.slow
def test_pipelines_are_registered_when_those_of_transformers_are_imported():
    run = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stderr == ""
    assert run.stdout.split("\n")[:3] == ["False", "[]", "QuestionAnsweringPipeline UncutTokenClassificationPipeline"]


def test_pipelines_are_registered_at_once_where_those_of_transformers_are_imported(monkeypatch):
    monkeypatch.setattr(PIPELINE_REGISTRY, "supported_tasks", dict(PIPELINE_REGISTRY.supported_tasks))
    del PIPELINE_REGISTRY.supported_tasks["question-answering"]
    when_imported(pipeline_tasks.PIPELINES, pipeline_tasks.register)
    assert PIPELINE_REGISTRY.supported_tasks["question-answering"]["impl"].__name__ == "QuestionAnsweringPipeline"


def test_a_question_answering_pipeline_of_transformers_own_is_left_alone():
    tasks = ("question-answering", "token-classification")
    registry = SimpleNamespace(supported_tasks={task: {"impl": f"theirs.{task}"} for task in tasks})
    pipeline_tasks.register(SimpleNamespace(PIPELINE_REGISTRY=registry))
    assert registry.supported_tasks["question-answering"] == {"impl": "theirs.question-answering"}
    assert registry.supported_tasks["token-classification"]["impl"].other == "theirs.token-classification"
    assert set(registry.supported_tasks) == set(tasks)
