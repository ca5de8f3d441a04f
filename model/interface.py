"""What training, evaluation, labelling and reports ask of a model; nothing else of it is known outside ``model/``.

:class:`Model` is a ``torch.nn.Module``, which a typing Protocol cannot be, and carries the defaults: a new family says what it is made
of (``tokenizer``, ``towers``), ``encode``s, computes its losses (``forward``), and defines of the rest what its tasks need.

Letters: B clips of this process, T texts, C clips searched, P pairs, M memory rows (clips that texts attend to), L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from omnivast.config.conversation import Conversation
from omnivast.config.registry import Registry
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Objective, Task
from omnivast.utils.random import StepRandom

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts
    from omnivast.data.spec import Tokenizer
    from omnivast.model.weights.towers import TowerFile

Role = Literal["vision", "audio", "text", "clip", "txt", "head"]
"""A part of a model that may have its learning rate set separately; ``clip`` is what CLIP has beside its image tower, ``txt`` an
encoder of texts beside the text tower, ``head`` everything outside the towers."""
Tower = Literal["vision", "audio", "text", "clip", "txt"]
Reward = Callable[[str, CaptionKind, Sequence[str], Sequence[Sequence[str]]], list[list[float]]]
"""(corpus, caption kind, clip ids (B), captions of each clip) → the reward of each caption."""
Scored = tuple[str, float | None]
"""A text and its score; None: not known."""
Own = TypeVar("Own", bound="Features")


DUAL_TEMPERATURE = 0.01
"""What similarities are divided by in a dual softmax: that is, they are multiplied by CLIP's logit scale of 100."""


class ModelError(ValueError):
    """A model config that cannot be built; the message names the key."""


class Features(Protocol):
    """The encoded form of B clips. Evaluation moves it to the CPU and back, and picks rows of it."""

    def __len__(self) -> int:
        """The number of clips, B."""
        ...

    def to(self: Own, device: torch.device | str) -> Own:
        ...

    def rows(self: Own, index: Tensor) -> Own:
        """The same of some clips, in the order of ``index`` (k,)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        ...

    @property
    def tokens(self) -> int:
        """How many tokens of a clip a text attends to; it decides how many clips are matched at once."""
        ...


@dataclass
class Rows:
    """Named tensors of one first dimension (clips or texts): the plainest Features, and what is kept to search with."""

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device | str) -> Rows:
        return Rows({name: x.to(device) for name, x in self.tensors.items()})

    def rows(self, index: Tensor | slice) -> Rows:
        return Rows({name: x[index] for name, x in self.tensors.items()})

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.tensors.values())

    @property
    def tokens(self) -> int:
        return sum(x.shape[1] for x in self.tensors.values() if x.ndim > 2) or 1


@dataclass(frozen=True)
class Unit:
    """A part of a model that FSDP gathers, and ``torch.compile`` may compile, by itself."""

    module: nn.Module
    gathered: Literal["pass", "step"] = "pass"
    """How long FSDP keeps its gathered weights: for one forward or backward pass at a time or, where a step runs it many times, for the
    whole step."""
    compiles: bool = True
    """Whether its inputs have the same sizes in every step, so that compiling it pays."""


@dataclass(frozen=True)
class Names:
    """How the names of a checkpoint's tensors differ from the model's parameters."""

    current: Callable[[str], str] = str
    """A name in some checkpoint, perhaps an older one → the model's."""
    released: Callable[[str], str] = str
    """The model's → the public release's."""
    unused: tuple[str, ...] = ()
    """Starts of names (``*`` stands for anything) that a release carries without use; dropped by name."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Starts of the release's names under which it has parts a second time → starts of those that they repeat."""
    apart: tuple[str, ...] = ()
    """Starts of names of a part with a file of its own, as which it stays where a checkpoint lacks it."""
    own: tuple[str, ...] = ()
    """Starts of names that every checkpoint of the family has, and none of another one that is not derived from it."""
    settings: Callable[[Mapping[str, Tensor]], Mapping[str, Any]] = lambda state: {}
    """What tensors, by the model's names, tell of the ``model_cfg`` that they were made with: setting → value, or values, in words."""


class Model(nn.Module):
    """A model family. The first block must be defined; the rest has defaults, which say what a model without it does."""

    tokenizer: Tokenizer
    """Makes the token ids of a batch's texts, each cleaned by ``clean_text`` before. Data workers have a copy of it."""
    audio_frontend: str = "beats"
    """How spectrograms are made for it: a name in data/audio.py."""
    frame_resize: str = "bicubic"
    """How frames are brought to its resolution: a name in data/vision.py. Pixels come as uint8 and are normalised by the model; the
    sizes of both, and the lengths of texts, are those of ``model_cfg``."""
    conversations: bool = False
    """Whether it learns conversations: captions, questions and answers come as such too (``Batch.chats``), written by ``tokenizer``."""
    learns_negatives: bool = False
    """Whether it learns from the rejected captions of a clip (``Batch.negatives``); rows that have some are refused else."""
    one_caption_length: bool = False
    """Whether omni captions are cut to max_caption_len, as all others are, because its scores depend on how many tokens a text may have;
    else to max_omni_caption_len where clips have captions of other kinds too."""
    precision: torch.dtype | None = None
    """What products are computed in by autocast (bfloat16, float16); None: float32. Set from outside."""
    gather_with_grad: bool = True
    """Whether features of other processes carry gradient. Set from outside."""
    gather_gradient: str = "paper"
    """``released``: as run_cfg.gather_gradient says. Set from outside."""
    in_step: bool = False
    """Whether every process must run each part of the model equally often, because they gather its weights together. Set from outside."""
    names = Names()
    objectives: tuple[Objective, ...] = (Objective.RETRIEVAL, Objective.CAPTION, Objective.QA)
    """What it is trained and tested by; a dataset whose task has another is refused before the model is built."""
    towers_from: tuple[str, ...] = ()
    """Model types whose checkpoints it may start from for the sake of their vision and audio towers; ``names.unused`` has the rest."""
    text_tower: bool = True
    """Whether ``text_encoder_type`` names a part of it."""
    most_samples: int | None = None
    """The most frames, and the most slices of sound, that it takes of a clip; None: any number."""

    @classmethod
    def build(cls, cfg: ModelConfig) -> Model:
        """The model of a config, on the CPU and from scratch; pretrained towers are loaded afterwards. Raises ModelError."""
        raise NotImplementedError

    @classmethod
    def frontend_of(cls, cfg: ModelConfig) -> str:
        """The ``audio_frontend`` of the model of a config, which is not built for it. Raises ModelError, EncoderError."""
        return cls.audio_frontend

    @staticmethod
    def clean_text(text: str) -> str:
        """What of a text the tokenizer is given: here all of it."""
        return text

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> Any:
        """:class:`Features` of a batch's clips, each modality encoded once. Raises ValueError for a modality that the batch lacks."""
        raise NotImplementedError

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """The losses of a training step: scalars in float32. ``"loss"`` is minimised; the others are logged. Random choices come from
        ``draws``, so that a resumed run repeats them and the number of processes does not count."""
        raise NotImplementedError

    def loss_weight(self, batch: Batch) -> float | None:
        """How much the losses of a batch count beside those of the other processes and of the step's other batches, such as how many words
        they are the mean of; known on the host. None: all count the same."""
        return None

    # ------------------------------------------------------------------------------------------------------------ its parts

    def towers(self) -> dict[Tower, nn.Module]:
        """The towers of this model: they start from pretrained files and have separate learning rates."""
        return {}

    @classmethod
    def more_parts(cls, cfg: ModelConfig) -> list[tuple[Tower, str, TowerFile]]:
        """(which tower, its name, its file) of towers that start from the file of another one, in which they lie too."""
        return []

    def was_trained_with(self, counts: Mapping[str, int]) -> None:
        """Told when the weights of a pretrained run were loaded, which saw at most so many frames ("vision") and slices of sound ("audio")
        of a clip: what the model has for more of them was never trained."""

    def check_task(self, task: Task) -> None:
        """Raise ValueError, naming the group and what is valid, for a task that the model cannot do."""

    def parameter_roles(self) -> Iterator[tuple[str, nn.Parameter, Role]]:
        """Every parameter with its name and role; by tower."""
        roles: dict[int, Role] = {id(p): role for role, tower in self.towers().items() for p in tower.parameters()}
        for name, parameter in self.named_parameters():
            yield name, parameter, roles.get(id(parameter), "head")

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies: not to biases, nor to what is a vector or a scalar in all but its shape, such as normalisation
        weights, temperatures, and the (1, 1, D) type embeddings and class tokens."""
        if name.endswith("bias") or parameter.ndim <= 1:
            return False
        return parameter.ndim == 2 or parameter.numel() > max(parameter.shape)

    def units(self) -> Iterator[Unit]:
        """What FSDP shares out piece by piece, inner parts before outer ones, and what is compiled: the blocks of the vision and audio
        towers. All else is gathered once, for the whole step."""
        for role, tower in self.towers().items():
            if role in ("vision", "audio"):
                yield from map(Unit, blocks_of(tower))

    @property
    def width(self) -> int:
        """Columns of typical products, by which ``precision: auto`` is measured on a CPU."""
        return 256

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tower_keys(self) -> dict[Modality, str]:
        """For each track with a tower that is never trained, what tells it from towers that find other features. Raises ValueError where
        they are trained, or the family keeps none."""
        raise ValueError(f"run_cfg.features_dir: {type(self).__name__} keeps no features of its towers")

    def tower_features(self, batch: Batch, modality: Modality) -> dict[str, Tensor]:
        """What the tower of a track finds in a batch's clips: name → (B, tokens, width). They can be given as ``Batch.features``."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------ retrieval

    def index_clips(self, features: Any, group: Group) -> Rows:
        """What is kept of each clip to search a group with, float32, every row of one shape whatever the batch. Rows that are equal but
        for rounding count as the same clip, so unit vectors are best."""
        raise ValueError(f"{type(self).__name__} cannot be tested for retrieval")

    def index_texts(self, texts: Texts) -> Rows:
        """What is kept of each text, in the same form."""
        raise ValueError(f"{type(self).__name__} cannot be tested for retrieval")

    def text_vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask (N, L) on the model's device → (N, D) float32: the ``vector`` of ``index_texts``, in operations that exporters of
        models can follow. Raises ValueError where texts are compared by more than a vector."""
        raise ValueError(f"{type(self).__name__} has no text tower that can be exported by itself")

    pair_numbers: int = 1
    """How many numbers ``similarity`` holds in memory for each pair; evaluation makes its blocks smaller by this factor."""

    def similarity(self, group: Group, texts: Rows, clips: Rows, by_clip: bool = False) -> Tensor:
        """Scores (T, C) or, with ``by_clip``, (C, T), float32, of what was kept of texts and clips: larger is better, and below 1 in
        size.

        A function of its arguments alone, on whatever device they are; it uses no parameters, and no row depends on another. The default
        is the dot product of one ``vector`` each.
        """
        one, other = (clips["vector"], texts["vector"]) if by_clip else (texts["vector"], clips["vector"])
        return one @ other.T

    def dual_temperature(self, group: Group) -> float:
        """What ``similarity`` is divided by in a dual softmax over the test set."""
        return DUAL_TEMPERATURE

    can_match: bool = False
    """Whether there is a ``match``; without it nothing is re-ranked."""

    def matching_features(self, features: Any, modalities: Sequence[Modality]) -> Any:
        """The part of ``features`` that ``match`` needs of these modalities, in the precision in which it is used: evaluation keeps it."""
        return features

    def match(self, memory: Any, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """How well texts ids, mask (P, L) fit memory rows (P,): (P,) float32, any scale."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------------------------- generation

    def memory(self, features: Any) -> Any:
        """What texts attend to, one row per clip (M = B). Whatever can be computed once per clip is computed at first use and kept. The
        methods below take it, so that captions and answers of all groups share it."""
        return features

    length_penalty: float = 0.6
    """Length penalty of beam search for captions: the sum of log-probabilities is divided by the length to this power; 0: by nothing."""
    answer_length_penalty: float = 1.0
    """Length penalty of beam search for answers."""

    def best_captions(self, memory: Any, group: Group, *, beam_size: int, max_length: int, length_penalty: float) -> list[list[str]]:
        """The ``beam_size`` best captions of every memory row that beam search finds, the best first."""
        raise ValueError(f"{type(self).__name__} does not write captions")

    def caption(self, memory: Any, group: Group, *, beam_size: int, max_length: int,
                length_penalty: float | None = None) -> list[str]:
        """A caption for every memory row by beam search (greedy with one beam); ``length_penalty`` None: the model's."""
        length_penalty = self.length_penalty if length_penalty is None else length_penalty
        captions = self.best_captions(memory, group, beam_size=beam_size, max_length=max_length, length_penalty=length_penalty)
        return [texts[0] for texts in captions]

    def sample_captions(self, memory: Any, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[str]]:
        """Captions of every memory row by top-k sampling; ``draws`` (M, captions per row, tokens at most) uniform in [0, 1)."""
        raise ValueError(f"{type(self).__name__} does not draw captions; set run_cfg.generate_by to beam")

    def scored_captions(self, memory: Any, group: Group, *, beam_size: int, max_length: int, length_penalty: float) -> list[list[Scored]]:
        """``best_captions``, each with its log-probability over its length to the power of the penalty. Default: None, it is not known."""
        found = self.best_captions(memory, group, beam_size=beam_size, max_length=max_length, length_penalty=length_penalty)
        return [[(text, None) for text in own] for own in found]

    def scored_samples(self, memory: Any, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[Scored]]:
        """``sample_captions``, each with its log-probability among all texts, not among those of the ``top_k``. Default: None."""
        return [[(text, None) for text in own] for own in self.sample_captions(memory, group, draws=draws, top_k=top_k)]

    def answer(self, memory: Any, group: Group, questions: Texts, *, beam_size: int) -> list[str]:
        """The answer to every question; ``questions.clip`` names its memory row."""
        raise ValueError(f"{type(self).__name__} does not answer questions")

    def reply(self, memory: Any, conversations: Sequence[Conversation], clips: Sequence[int], *, beam_size: int,
              max_length: int) -> list[str]:
        """What comes next in conversations that end with a question, about the memory rows ``clips``."""
        raise ValueError(f"{type(self).__name__} does not converse")

    def export_language_model(self, folder: str | Path, *, whole: bool) -> Path:
        """Write the language model's adapter as a folder of peft or, with ``whole``, all of it with the adapter merged into its weights,
        and its tokenizer, as one of transformers; the folder's path."""
        raise ValueError(f"{type(self).__name__} has no language model that can be exported by itself")

    def state_to_share(self) -> dict[str, Tensor]:
        """The state dict, but for a language model that was trained itself, which lies beside it: as ``export_language_model`` writes it
        whole, and frozen from then on."""
        return self.state_dict()

    def answer_scores(self, memory: Any, group: Group, questions: Texts, answers: Sequence[str]) -> list[float] | None:
        """The log-probability of a given answer to every question, each of its tokens predicted behind those before it. Default: None, it
        is not known."""
        return None

    def learn_from_reward(self, reward: Reward, *, candidates: int, search: Literal["sample", "beam"],
                          baseline: Literal["greedy", "mean"]) -> None:
        """From now on captions are learnt by self-critical training: ``candidates`` of each clip are tried, and those whose reward is
        above the baseline become likelier."""
        raise ValueError(f"run_cfg.scst_finetuning: {type(self).__name__} cannot be trained from a reward")


MODELS: Registry[type[Model]] = Registry("model_cfg.model_type", "model", error=ModelError)
"""``model_type`` → the class. A family enters itself with ``@MODELS.register("name")``, and model/build.py imports its file."""


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a tower: the members of its innermost lists of modules, where a list has several members of one class that have
    submodules."""
    children = list(module.children())
    inner = [blocks_of(child) for child in children]
    if not isinstance(module, nn.ModuleList | nn.Sequential) or not _alike(children):
        return [block for blocks in inner for block in blocks]
    return [block for child, blocks in zip(children, inner) for block in blocks or [child]]


def _alike(modules: list[nn.Module]) -> bool:
    return len(modules) > 1 and len({type(module) for module in modules}) == 1 and all(list(module.children()) for module in modules)

