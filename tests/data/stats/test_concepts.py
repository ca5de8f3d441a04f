"""Audio concepts: what is split, what is found, by hand."""

import json

import pytest

from omnivast.data.stats.concepts import ConceptDetector, OntologyError, audioset_concepts, class_names, concepts_of, words_of


def test_words_are_without_capitals_and_punctuation():
    assert words_of('A man\'s "tick-tock" clock: STOPS (at 5.30)!') == ["a", "mans", "ticktock", "clock", "stops", "at", "530"]
    assert words_of("snake_case – and Größe…") == ["snakecase", "and", "größe"]
    assert words_of(" … ") == words_of("") == []


def test_classes_with_commas_are_several_concepts():
    names = ["Bee, wasp, etc.", "Bow-wow", "Inside, small room", "Inside, public space", "Keyboard (musical)", "Speech"]
    assert concepts_of(names) == {"bee", "wasp", "etc", "bowwow", "inside", "small room", "public space", "keyboard musical", "speech"}


def test_the_ontology_is_whole():
    """The paper: 632 classes. Its 759 concepts do not follow from the rule that it gives, which leads to 727 parts."""
    names = class_names()
    assert len(names) == len(set(names)) == 632
    assert sum(len(name.split(",")) for name in names) == 727 and len(audioset_concepts()) == 724
    assert {"male speech", "man speaking", "dog", "tires", "a capella", "whoosh", "swoosh", "swish"} - audioset_concepts() == {"tires"}
    parts = [part for name in names for part in name.replace(")", ",").replace("(", ",").split(",") if part.strip()]
    assert (len(parts), len({" ".join(words_of(part)) for part in parts})) == (758, 738)


@pytest.mark.parametrize(("caption", "found"), [
    ("a dog and a dog", {"dog"}),  # once, however often
    ("dogs, barking", set()),  # as they are spelt
    ("Dog!", {"dog"}),
    ("hotdog dogma", set()),  # whole words
    ("an acoustic guitar", {"acoustic guitar", "guitar"}),  # each of them, also one within another
    ("acoustic and electric guitar", {"guitar"}),  # words of a concept follow each other
    ("acoustic", set()),
    ("the man speaking to a man", {"man speaking"}),
    ("a man man speaking", {"man speaking"}),
    ("tick-tock and ticktock", {"ticktock"}),
    ("", set()),
])
def test_what_is_found(caption, found):
    detector = ConceptDetector(concepts_of(["Dog", "Guitar", "Acoustic guitar", "Male speech, man speaking", "Tick-tock"]))
    assert detector.find(words_of(caption)) == found


def test_public_files_are_read(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return class_names(tmp_path / name)

    assert written("ontology.json", json.dumps([{"id": "/m/1", "name": "Male speech, man speaking"}, {"id": "/m/2", "name": "Dog"}])) == [
        "Male speech, man speaking", "Dog"]
    assert written("class_labels_indices.csv", 'index,mid,display_name\n0,/m/1,"Male speech, man speaking"\n1,/m/2,Dog\n') == [
        "Male speech, man speaking", "Dog"]
    assert written("names.json", '["Dog", " Cat "]') == ["Dog", "Cat"] and written("mine.json", '{"classes": ["Dog"]}') == ["Dog"]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.json", "[]", "a.json: expected a list of objects with 'name', as AudioSet's ontology.json, or a list of names; it holds no such"),
    ("a.json", '["Dog", {"id": "/m/1"}]', "entry 1 of the list is neither"),
    ("a.json", '{"Dog": 1}', "it holds no such list"),
    ("a.json", "[", "a.json: not JSON: line 1"),
    ("a.csv", "index,name\n0,Dog\n", "a.csv: expected the column 'display_name'"),
    ("a.csv", "", "a.csv: expected the column 'display_name'"),
    ("absent.json", None, "absent.json: no such ontology"),
])
def test_what_is_no_ontology(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(OntologyError) as error:
        class_names(tmp_path / name)
    assert message in str(error.value)
