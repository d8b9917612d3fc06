from tercet.lm.preferences.words import content, last_question, words


def test_last_question_is_the_last_user_turn_of_a_transcript() -> None:
    assert (
        last_question("Human: Hi!\n\nAssistant: Hello.\n\nHuman: Who are you?\n\nAssistant:").strip() == "Who are you?"
    )
    assert last_question("Is Human: a word?") == "Is Human: a word?"


def test_words_are_lower_case_and_without_punctuation() -> None:
    assert words("Don’t panic, it's 2 o'clock!") == ["don't", "panic", "it's", "2", "o'clock"]


def test_content_words_are_stems_without_stop_words() -> None:
    assert content("Do you like computers?") == content("Computing is what I like.") == {"compu"}
