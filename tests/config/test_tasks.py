"""The notations of modalities, groups and tasks, and their errors."""

import pickle

import pytest

from omnivast.config.tasks import CaptionKind, Group, Modality, Objective, Task, TaskError, as_valor_writes

V, A, S = Modality.VISION, Modality.AUDIO, Modality.SUBTITLE


@pytest.mark.parametrize("text", ["tvas", "vast", "vas", "atvs", "sav", " tvas "])
def test_every_notation_of_a_group_is_the_same_group(text):
    group = Group.parse(text)
    assert group == Group((V, A, S)) and str(group) == "tvas" and group.key == "vas" and hash(group) == hash(Group((V, A, S)))


@pytest.mark.parametrize("text, modalities, kind", [
    ("tv", (V,), CaptionKind.VISION), ("ta", (A,), CaptionKind.AUDIO), ("ts", (S,), CaptionKind.OMNI), ("vat", (V, A), CaptionKind.OMNI),
    ("tsv", (V, S), CaptionKind.OMNI), ("tas", (A, S), CaptionKind.OMNI), ("vast", (V, A, S), CaptionKind.OMNI)])
def test_groups_and_their_captions(text, modalities, kind):
    group = Group.parse(text)
    assert group.modalities == tuple(group) == modalities and group.caption_kind is kind
    assert all((m in group) == (m in modalities) for m in Modality)


@pytest.mark.parametrize("text, message", [
    ("txv", r"group 'txv' has unknown letter\(s\) x; valid are v \(vision\), a \(audio\), s \(subtitle\) and t \(text\)"),
    ("t", "group 't' is empty: name at least one of v"), ("", "group '' is empty"), ("tvv", "group 'tvv' names a modality more than once"),
    ("ttv", r"group 'ttv' names the text \(t\) more than once"), ("TV", "unknown letter")])
def test_groups_that_cannot_be(text, message):
    with pytest.raises(TaskError, match=message):
        Group.parse(text)


def test_a_task():
    task = Task.parse("ret%tvas%vt_cap%tva_qa%tv")
    groups = {o: [str(g) for g in task.groups(o)] for o in Objective}
    assert groups == {Objective.RETRIEVAL: ["tvas", "tv"], Objective.CAPTION: ["tva"], Objective.QA: ["tv"], Objective.MLM: [],
                      Objective.CHAT: []}
    assert str(task) == "ret%tvas%tv_cap%tva_qa%tv" and Task.parse(str(task)) == task and pickle.loads(pickle.dumps(task)) == task
    assert task.objectives == (Objective.RETRIEVAL, Objective.CAPTION, Objective.QA)
    assert [str(g) for g in task.all_groups] == ["tvas", "tv", "tva"] and task.modalities == (V, A, S)


def test_a_task_without_some_objectives_and_modalities():
    task = Task.parse(" cap%ts%tsv ")
    assert task.groups(Objective.RETRIEVAL) == () and task.modalities == (V, S)
    assert str(Task.parse("ret%tv_cap%ta_qa%ts").without(Objective.CAPTION)) == "ret%tv_qa%ts" and task.without(Objective.RETRIEVAL) == task


@pytest.mark.parametrize("text, message", [
    ("", "empty"), ("ret", "objective 'ret' in task 'ret' has an empty group; write for example ret%tvas"),
    ("ret%", "has an empty group"), ("ret%tv%_cap%tv", "objective 'ret'.*has an empty group"),
    ("rte%tv", "unknown objective 'rte' in task 'rte%tv'; valid are ret .*, cap .*, qa .*Did you mean 'ret'"),
    ("tvas", "'tvas' is a group without its objective; write for example ret%tvas"),
    ("caption%tv", "unknown objective 'caption'.*Did you mean 'cap'"), ("ret%tv,cap%tv", "objectives are joined by '_'"),
    ("ret%tv__cap%tv", "unknown objective ''"), ("ret%tv_ret%ta", "objective 'ret' occurs twice.*list its groups once"),
    ("ret%tv%vt", "objective 'ret' in task 'ret%tv%vt' names a group twice"), ("ret%tq", "task 'ret%tq': group 'tq' has unknown letter")])
def test_tasks_that_cannot_be(text, message):
    with pytest.raises(TaskError, match=message):
        Task.parse(text)


def test_the_words_of_modalities():
    assert [m.word for m in Modality] == ["vision", "audio", "subtitle"]


@pytest.mark.parametrize("text, printed, with_text", [
    ("v-a", "v-a", False), ("a-v", "v-a", False), ("v-ta", "v-ta", True), ("v-at", "v-ta", True), ("a-tv", "a-tv", True)])
def test_groups_without_the_text_on_one_side(text, printed, with_text):
    group = Group.parse(text)
    assert str(group) == printed and group.with_text is with_text and Group.parse(printed) == group != Group((V, A))
    assert tuple(group) == (V, A) and sorted([group, Group((V, A))]) == [Group((V, A)), group]
    assert Task.parse(f"ret%tva%{text}").modalities == (V, A) and pickle.loads(pickle.dumps(group)) == group


@pytest.mark.parametrize("text", ["v-s", "t-va", "v-", "-a", "v-v", "va-t", "v-a-t", "v-tva"])
def test_groups_with_a_dash_that_cannot_be(text):
    with pytest.raises(TaskError, match="of groups with a dash there are v-a .*, v-ta .* and a-tv"):
        Group.parse(text)


def test_only_the_contrast_has_them():
    with pytest.raises(TaskError, match="objective 'cap' in task 'cap%v-ta' has group v-ta, which only ret, the contrast, can have"):
        Task.parse("cap%v-ta")


def test_groups_as_the_released_valor_writes_them():
    assert as_valor_writes("ret%tva%tv%va%vta%atv_cap%va%tva") == "ret%tva%tv%v-a%v-ta%a-tv_cap%va%tva"
    assert as_valor_writes("cap%tva_ret%vat%v-a") == "cap%tva_ret%vat%v-a" and as_valor_writes("") == ""
