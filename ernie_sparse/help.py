# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What `ernie-sparse COMMAND --help` prints: usage, examples, and the flags that people use first. `--help-all` prints every flag, for which
the command has to be imported; this file imports no library, so that help comes at once.
"""

from typing import NamedTuple


class CommandHelp(NamedTuple):
    """
    Args:
        about (`str`): What the command does, in a sentence or two.
        usage (`str`): What follows its name.
        examples (`str`): Commands, one per line, with their indentation.
        flags (`dict[str, str]`): Those that people use first, each with what it takes, and what it does.
        notes (`str`): What else one has to know.
        others (`str`): What `--help-all` shows beside them.
    """

    about: str
    usage: str
    examples: str
    flags: dict[str, str]
    notes: str = ""
    others: str = ""

    def short(self, name: str) -> str:
        """The text of `--help`."""
        width = max(map(len, self.flags))
        indent = "\n" + " " * (width + 4)
        flags = "\n".join(f"  {flag:<{width}}  {text.replace(chr(10), indent)}" for flag, text in self.flags.items())
        parts = (
            f"usage: ernie-sparse {name} {self.usage}",
            self.about,
            f"examples:\n{self.examples}",
            f"flags that people use first:\n{flags}",
            self.notes,
            f"Every flag{self.others}: ernie-sparse {name} --help-all",
        )
        return "\n\n".join(filter(None, parts))

    @property
    def epilog(self) -> str:
        """What stands below the flags of `--help-all`."""
        return f"examples:\n{self.examples}" + (f"\n\n{self.notes}" if self.notes else "")


_TRAINING = ", with those of transformers' TrainingArguments"
_PATTERN_FIELDS = """PATTERN names fields of a sparse pattern; the others keep their defaults:
  block_size=64          tokens per block                num_random_blocks=0   drawn for each block, from seed=0
  num_window_blocks=3    a block and its neighbours      block_shift=0         moves every block boundary
  num_global_blocks=1    they see all, all see them      hierarchical=true     representatives and step 2"""

HELP = {
    "convert": CommandHelp(
        "Turn a checkpoint of another encoder into an ERNIE-Sparse one: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ERNIE, ELECTRA,\n"
        "BigBird or Longformer. Every weight is copied.",
        "SOURCE OUT [options]",
        "  ernie-sparse convert bert-base-uncased sparse-bert --max-length 4096 --base-model\n"
        "  ernie-sparse convert ./my-roberta sparse-roberta --max-length 8192 --pattern block_size=64,num_window_blocks=5",
        {
            "SOURCE": "the checkpoint: a folder or a hub id",
            "OUT": "the folder to write; new or empty",
            "--max-length N": "tokens that the result can read (4096, or as many as SOURCE if that is more)",
            "--base-model": "leave the head behind, keep the pooler: for classification",
            "--pattern PATTERN": "sparse pattern of the result, such as block_size=128",
        },
    ),
    "pretrain": CommandHelp(
        "Pretrain a masked language model on text, with SAOR. To resume after a stop or a kill, run the same command again.",
        "(--model DIR | --train-tokenizer SIZE | --tokenizer DIR) (--train-file F [F ...] | --dataset NAME) --output-dir OUT [options]",
        "  ernie-sparse pretrain --model sparse-bert --train-file 'papers/*.jsonl.gz' --output-dir pretrained\n"
        "  ernie-sparse pretrain --train-file a.txt b.txt --train-tokenizer 8000 --max-length 1024 \\\n"
        "      --config hidden_size=256,num_hidden_layers=4 --output-dir pretrained\n"
        "  ernie-sparse pretrain --model sparse-bert --train-file 'web-*.parquet' 'books/*.txt.zst' --train-weights 1 3 \\\n"
        "      --streaming true --max-steps 100000 --save-steps 1000 --output-dir pretrained",
        {
            "--model DIR": "the checkpoint to go on with: a folder or a hub id",
            "--train-file F [F ...]": "txt, csv, json, jsonl or parquet files, or patterns of names; .gz, .bz2, .xz, .zst as well",
            "--dataset NAME": "a data set of the hub instead of files",
            "--output-dir OUT": "the folder of the run: checkpoints, model, results.json, report.md, training.png",
            "--train-tokenizer SIZE": "a new model: train a tokenizer of so many tokens on the text",
            "--config SIZES": "a new model: its sizes, as hidden_size=256,num_hidden_layers=4",
            "--max-length N": "tokens per row (the model's limit)",
            "--pattern PATTERN": "the sparse pattern to train with (the model's own)",
            "--streaming true": "read rows while training, for text that does not fit on the disk; needs --max-steps",
            "--mlm-probability P": "share of the tokens to predict (0.15)",
            "--saor-alpha A": "weight of SAOR (1); 0 turns it off and halves the time of a step",
            "--learning-rate R": "the largest rate (5e-05)",
            "--per-device-train-batch-size N": "rows per step and device (8)",
            "--num-train-epochs N": "passes over the text (3); --max-steps N counts steps instead",
            "--bf16 true": "mixed precision: faster on a GPU, and on CPUs that have it",
        },
        others=_TRAINING,
    ),
    "finetune": CommandHelp(
        "Fine-tune a checkpoint on a task, or on files of your own. To resume after a stop or a kill, run the same command again.",
        "--model DIR (--task NAME | --train-file F [F ...] | --dataset NAME) --output-dir OUT [options]\n"
        "       ernie-sparse finetune --list",
        "  ernie-sparse finetune --list                                   the tasks, with their recipes\n"
        "  ernie-sparse finetune --model sparse-bert --train-file train.csv --validation-file dev.csv --output-dir classifier\n"
        "  ernie-sparse finetune --model sparse-bert --task imdb --max-length 2048 --seeds 0 1 2 --output-dir imdb\n"
        "  ernie-sparse finetune --model sparse-bert --kind question_answering --train-file qa.jsonl --output-dir reader",
        {
            "--model DIR": "the checkpoint to start from: a folder or a hub id",
            "--train-file F [F ...]": "csv, tsv, json, jsonl or parquet files to train on, or patterns of names",
            "--validation-file F [F ...]": "files to evaluate on; without them a tenth of the training rows is held out",
            "--test-file F [F ...]": "files for one evaluation at the end",
            "--task NAME": "a task of --list instead of files; --data-dir D reads local copies of it",
            "--kind KIND": "what a row holds: single_label (the default), multi_label, regression, token_classification,\n"
            "question_answering or candidate_choice",
            "--text-column NAME": "the column of the texts (text); --label-column that of the labels (label)",
            "--output-dir OUT": "the folder of the run: model, results.json, predictions, pictures, model card",
            "--max-length N": "tokens per row (the task's, else 1024, as far as the model reads)",
            "--long-documents HOW": "longer texts: head (the default), tail, head_tail or windows",
            "--pattern PATTERN": "the sparse pattern to train with (the model's own)",
            "--seeds S [S ...]": "one run per seed, and their mean",
            "--regularization saor": "pull the outputs under two patterns together, for a second pass per step (none)",
            "--learning-rate R": "the largest rate (the task's recipe, see --list)",
            "--per-device-train-batch-size N": "rows per step and device (the recipe's)",
            "--num-train-epochs N": "passes over the rows (the recipe's)",
            "--bf16 true": "mixed precision: faster on a GPU, and on CPUs that have it",
        },
        others=_TRAINING,
    ),
    "predict": CommandHelp(
        "Run a fine-tuned model on a file of any size.",
        "--model DIR --input-file F --output-file G [options]",
        "  ernie-sparse predict --model classifier --input-file mails.csv --output-file labels.csv\n"
        "  ernie-sparse predict --model classifier --input-file mails.jsonl --output-file labels.jsonl --text-column body\n"
        "  ernie-sparse predict --model reader --input-file questions.jsonl --output-file answers.json",
        {
            "--model DIR": "what `ernie-sparse finetune` wrote: a folder or a hub id",
            "--input-file F": "csv, tsv, jsonl, json or parquet rows; read as a stream",
            "--output-file G": "csv, jsonl or json; it must not exist yet",
            "--text-column NAME": "the column of the texts (as in training)",
            "--batch-size N": "rows per forward pass and process (8)",
            "--pattern PATTERN": "the sparse pattern to read with (the model's own)",
            "--bf16": "compute in bfloat16",
            "--strict": "check all rows first, and end where one cannot be used",
        },
        """The output has a row per input row, in its order: its id (or number) and
  classes            label and score, its probability; for sets of classes, labels
  numbers            value
  words              labels, one per word
  questions          answer, score (above that of no answer), probability, start and end in the context
  candidates         answer and score, its probability
In csv, lists are joined by "|". jsonl also has the probabilities of all classes, entities, and other answers. json is
{id: answer} for questions and candidates, {id: prediction} otherwise.

A row that cannot be used gets an error that says why, and no prediction. After a stop, run the same command again to resume.""",
    ),
    "robustness": CommandHelp(
        "Read documents with a model under other sparse patterns: what each changes in the score, the predictions and the cost.\n"
        "--choose finds the cheapest pattern that keeps the score.",
        "--model DIR (--task NAME | --validation-file F [F ...]) --output-dir OUT [options]",
        "  ernie-sparse robustness --model classifier --validation-file dev.csv --output-dir report\n"
        "  ernie-sparse robustness --model classifier --validation-file dev.csv --output-dir report \\\n"
        "      --patterns block_size=32 num_window_blocks=1,num_global_blocks=2 hierarchical=false full\n"
        "  ernie-sparse robustness --model classifier --validation-file dev.csv --output-dir report \\\n"
        "      --choose --epsilon 0.5 --test-file test.csv --save cheaper-classifier\n"
        "  ernie-sparse robustness --model classifier --validation-file mails.jsonl --unlabelled --output-dir report\n"
        "  ernie-sparse robustness --model pretrained --validation-file book.txt --output-dir report",
        {
            "--model DIR": "what `ernie-sparse finetune` wrote, or a masked language model: a folder or a hub id",
            "--validation-file F [F ...]": "the documents: files with labels, or text for a masked language model",
            "--task NAME": "the validation set of a task of `ernie-sparse finetune --list` instead",
            "--output-dir OUT": "the folder of the report: robustness.md, robustness.png, robustness.json",
            "--max-documents N": "read so many documents, drawn by --seed",
            "--patterns P [P ...]": "patterns to try: the fields that differ from the model's own, or full",
            "--choose": "find the cheapest pattern that loses at most --epsilon points of the score (0.5 by default)",
            "--save DIR": "write the model with the pattern that was chosen",
            "--unlabelled": "the documents have no labels: predictions are compared, without scores",
            "--timing false": "do not measure time and memory",
        },
        "If it was stopped, run the same command again to resume.",
    ),
    "show": CommandHelp(
        "Draw a sparse pattern: who sees whom, and what that costs, as text or as a picture.",
        "[PATTERN] [options]",
        "  ernie-sparse show                                                     the default pattern, as text\n"
        "  ernie-sparse show --length 1024 -o pattern.png\n"
        "  ernie-sparse show block_size=64,num_window_blocks=5,num_random_blocks=2 --length 4096 -o pattern.svg\n"
        "  ernie-sparse show block_size=64,hierarchical=false --length 2048      without representatives and step 2\n"
        "  ernie-sparse show --model classifier --length 2048 -o pattern.pdf     a model's own pattern, at its widths",
        {
            "PATTERN": "a sparse pattern (the model's, or the default one)",
            "--length N": "tokens of the document (1024, or fewer where the model reads fewer)",
            "-o FILE": "a .png, .svg or .pdf to write, instead of text",
            "--model DIR": "a checkpoint whose pattern, representatives and widths are drawn",
        },
        _PATTERN_FIELDS
        + """

Step 1 is drawn block by block: a row is a block of queries, a column a block of keys, and the colour says why one sees the other.
At the head of each block stand its representatives. In step 2 they see each other, and nothing else.

The cost is counted, in multiplications per token and layer: attention in both steps and the linear layers of representatives,
beside full attention and beside the linear layers of the tokens.""",
    ),
    "export": CommandHelp(
        "Write a model as ONNX, in fp32 and on request in int8, and compare it with PyTorch before it is kept.",
        "MODEL OUT [options]",
        "  ernie-sparse export classifier classifier-onnx\n"
        "  ernie-sparse export classifier classifier-onnx --int8 --data-file dev.csv\n"
        "  ernie-sparse export sparse-bert encoder-onnx --pattern block_size=64,num_window_blocks=5",
        {
            "MODEL": "an ERNIE-Sparse checkpoint: a folder or a hub id",
            "OUT": "the folder to write",
            "--int8": "write int8 weights as well, and say what they cost and gain",
            "--data-file F": "rows of your own on which int8 is compared, as `ernie-sparse predict` reads them",
            "--pattern PATTERN": "the sparse pattern of the file (the model's own)",
        },
        """OUT gets onnx/model.onnx, with --int8 onnx/model_quantized.onnx, config.json, the tokenizer and export.json. sentence-transformers and
text-embeddings-inference look for them there. Inputs are input_ids, attention_mask and, where the tokenizer gives them, token_type_ids,
all int64: any number of rows, of any length up to the model's limit, padded on either side. Outputs:
  base model                                             last_hidden_state
  masked LM, classification of texts or tokens, choices  logits
  question answering                                     start_logits, end_logits""",
    ),
}
