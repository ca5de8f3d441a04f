"""How free answers are marked beside exact match: with synonyms, and by a judge where one is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivast.evaluation.judge import Judge, JudgeError, judge_of, judged, summary
from omnivast.evaluation.metrics.synonyms import Synonyms, read_synonyms
from omnivast.utils import distributed

if TYPE_CHECKING:
    from omnivast.config.schema import RunConfig

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Marking:
    """Of one dataset's answers."""

    synonyms: Synonyms | None = None
    judge: Judge | None = None
    verdicts: Path = Path()
    """Start of the name of the files of a judge's verdicts: ``results/msvd_qa``."""

    @classmethod
    def of(cls, run: RunConfig, dataset: str) -> Marking:
        """As ``run_cfg.synonyms`` and ``judge…`` say; a judge is asked in tests alone, not in evaluations during a training. Raises
        ValueError."""
        tests = run.mode == "testing" or run.zero_shot
        judge = judge_of(run.judge, run.judge_model, run.judge_prompt, run.judge_seconds) if tests else None
        synonyms = read_synonyms(run.synonyms) if run.synonyms else None
        return cls(synonyms, judge, Path(run.output_dir, "results", dataset))

    @property
    def words(self) -> str:
        """What is added to a result's sentence on how answers were compared."""
        return "; accuracy_synonyms: with the synonyms of a file or of the rows as well" if self.synonyms else ""

    def judged(self, predictions: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
        """``{"judged": {group: summary}}`` for a result, on every process; {} without a judge. A judge that fails is said in its place:
        the answers and their other marks are not lost by that."""
        if self.judge is None:
            return {}
        judge = self.judge
        return {"judged": {group: distributed.computed_once(lambda group=group: self._of_group(judge, predictions, group))  # type: ignore[misc]
                           for group in groups}}

    def _of_group(self, judge: Judge, predictions: Sequence[Mapping[str, Any]], group: str) -> dict[str, Any]:
        path = self.verdicts.with_name(f"{self.verdicts.name}.{group}.judged.jsonl")
        try:
            found = {**summary(judge, judged(judge, predictions, group, path)), "verdicts": str(path)}
        except JudgeError as error:
            logger.warning("%s; what it marked is in %s, and a test that is run again goes on from there", error, path)
            return {"not_computed": str(error), "verdicts": str(path)}
        logger.info("%s: %.1f %% right (%s)", path.name, found["accuracy"], found["note"])
        return found
