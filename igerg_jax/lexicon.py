"""A small, readable lexicon that assigns one of the seven emotions to a sentence.

The labels are weak: a cue is a word or phrase that people use when they feel something, and irony
and context are ignored. Related emotions count as one, as in Plutchik's wheel: worry is fear;
dislike and boredom are disgust; annoyance is anger; sympathy and disappointment are sadness.

Evaluation labels generated texts with `label`. The embedded datasets are labelled with it too, so
it is not independent of models that were trained on them: those of `igerg_jax.text_labeller` are.
This module needs only the standard library and the emotion ids.
"""

import re
from collections.abc import Iterator

from igerg_jax.batch import EMOTION_ID, NEUTRAL

# Comma-separated phrases, matched on whole words, case-insensitively; a trailing * matches any
# ending, and ? and ! are words. The order of the emotions breaks ties: the rarer one wins, since
# laughter and thanks are often mere politeness in chats ("haha that's gross").
CUES: dict[str, str] = {
    "disgust": """
        gross, grossed, disgust*, yuck*, ew, eww*, nasty, ick, icky, vomit*, puke*, barf*,
        stinky, stinks, stank, smelly, smells bad, smells like, bad smell, rotten, moldy,
        cringe*, cringy, poop*, cockroach*, can't stand, cant stand, don't like, dont like,
        didn't like, didnt like, don't really like, dont really like, not a fan, not a big
        fan, not a huge fan, never liked, not my favorite, dislike*, boring, bored, lame, so
        weird, really weird, pretty weird, kind of weird, kinda weird, super weird, that's
        weird, thats weird, tastes bad, tasted bad, tastes like, blah, bleh, sickening,
        unsanitary, filthy, creeper*, sketchy, awkward""",
    "fear": """
        scared, scary, scares, scariest, scaring, afraid, fear, fears, fearful, terrified,
        terrifying, terrifies, nervous, worry, worried, worries me, worrying, anxious,
        anxiety, panic*, creepy, creeped, spooky, spooked, horror, nightmare*, frighten*,
        dread*, stress, stressed, stressful, stressing, freak out, freaks me, freaked,
        phobia*, haunted, danger*, intimidat*, threat*, yikes, eek, claustrophobi*, paranoid,
        careful, heights, risky, murder*, serial killer, kidnap*, ghost, ghosts, overwhelm*,
        uneasy, apocalypse, zombie*, the dark, take over the world, taking over the world""",
    "anger": """
        angry, anger, mad, hate, hated, hates, annoy*, ugh*, uggh*, uggg*, argh, grr*,
        furious, pissed, stupid, dumb, dumbest, rude, jerk*, idiot*, heck no, crap, crappy,
        frustrat*, unfair, not fair, ridiculous, shut up, irritat*, rage, raging, bothers me,
        bugs me, drives me, drove me, the worst, liar*, lied to, cheater*, cheated, cheating,
        sick of, tired of, how dare, obnoxious, pathetic, complain*, selfish, fed up, dang it,
        darn it, hypocri*, insult*, offend*, offensive, mean to me, so mean, outrageous,
        revenge, yell*, screw, waste of""",
    "sadness": """
        sad, sadly, saddest, sadness, cry, cried, cries, crying, tears, miss you, miss it,
        miss them, miss him, miss her, miss my, i miss, miss out, missed out, lonely,
        loneliness, depress*, unfortunate, unfortunately, heartbr*, broke my heart, bummer,
        bummed, disappoint*, tragic, tragedy, grief, grieving, upset, sucks, sucked, that
        stinks, terrible, horrible, awful, so sorry, sorry to hear, sorry about, sorry for
        your, sorry that, passed away, funeral, cancer, hurts, that's rough, thats rough,
        that's tough, thats tough, rough day, rough week, too bad, oh no, aw man, aww man,
        regret*, failed, failing, homesick, painful, poor guy, poor girl, poor thing, i wish
        i, gave up, struggl*, suffer*, breakup, broke up, hopeless, miserable""",
    "surprise": """
        wow, wowza, whoa, woah, wo, omg, oh my gosh, oh my goodness, oh my word, oh my, my
        gosh, my goodness, holy cow, holy crap, holy smokes, no way, oh no way, dang, whaat*,
        what the heck, wait what, wait really, what !, what ? !, what ? ?, surpris*,
        unexpected*, unbelievable, can't believe, cant believe, hard to believe, shock*,
        crazy, craziest, insane, insanely, incredible, seriously ?, really ?, oh really, are
        you serious, for real ?, you're kidding, are you kidding, mind blowing, mind blown,
        mindblowing, blew my mind, blows my mind, jaw dropping, amazed, astonish*, astound*,
        suddenly, didn't expect, didnt expect, never expected, no kidding, what are the odds,
        wouldn't have guessed, would have guessed, wild, huh ?, plot twist, jeez, geez, oh snap""",
    "joy": """
        happy, happier, happiest, happiness, glad, excited, exciting, excitement, love, loved,
        loves, loving, haha*, hahah*, hehe*, lol, lmao, rofl, yay*, yess*, woo, woohoo,
        hooray, hilarious, funny, congrat*, awesome, amazing, enjoy, enjoyed, enjoying,
        wonderful, fantastic, fabulous, delightful, beautiful, thank, thanks, thankful,
        grateful, blessed, so fun, super fun, really fun, fun !, great !, perfect !, nice !,
        cool !, sweet !, proud, can't wait, cant wait, good luck, cheers, laughing, laugh,
        laughed, smile*, smiling, joy*, adorable, so cute, thrilled, stoked, sounds fun,
        sounds great, best ever, so good, so cool, so nice, super cool, way cool, really cool,
        lucky, yum*, delicious, brilliant""",
}
# Each match counts as one cue; searched before the text is split into words.
EMOTICONS: dict[str, str] = {
    "disgust": r"(?<!\w)[:=]-?[/\\](?!/)",
    "sadness": r"(?<!\w)[:=]'?-?[(\[]",
    "surprise": r"(?<!\w)[:=]-?[oO](?!\w)",
    "joy": r"(?<!\w)[:;=]'?-?[)D](?!\w)|<3|(?<!\w)[xX]D+(?!\w)",
}
# A cue shortly after one of these does not count ("not scared", "no worries").
_NEGATORS = """
    not no never don't dont doesn't doesnt didn't didnt isn't isnt wasn't wasnt aren't arent won't
    wont without nothing less hardly can't cant couldn't wouldn't ain't"""
NEGATORS = frozenset(_NEGATORS.split())
NEGATION_WORDS = 3  # reach of a negator
_WORD = re.compile(r"[a-z0-9']+|[?!]")
_MARKS = "?!"


def label(text: str) -> int:
    """Returns the emotion id (0..6) with the most cues in `text`; neutral without any."""
    votes = count_cues(text)
    best = max(votes.values(), default=0)
    if best == 0:
        return NEUTRAL
    return EMOTION_ID[next(emotion for emotion in CUES if votes.get(emotion) == best)]


def count_cues(text: str) -> dict[str, int]:
    """Returns {emotion: number of cues in `text`}, for emotions with at least one.

    At each word, the longest phrase that starts there counts once, unless it is negated.
    """
    votes: dict[str, int] = {}
    for emotion, pattern in _EMOTICON_PATTERNS.items():
        if count := len(pattern.findall(text.replace("\u2019", "'"))):
            votes[emotion] = count
    for emotion, _, _ in _cues(_words(text)):
        votes[emotion] = votes.get(emotion, 0) + 1
    return votes


def cue_words_share(text: str) -> float:
    """The share of a text's words that belong to a cue, not counting emoticons; 0 without words."""
    words = _words(text)
    in_cue = [word for _, start, end in _cues(words) for word in words[start:end]]
    total = sum(word not in _MARKS for word in words)
    return sum(word not in _MARKS for word in in_cue) / total if total else 0.0


def _words(text: str) -> list[str]:
    """Lower-case words, and the marks ? and !."""
    return _WORD.findall(text.replace("\u2019", "'").lower())


def _cues(words: list[str]) -> Iterator[tuple[str, int, int]]:
    """(emotion, start, end) of each cue in `words` that is not negated."""
    at = 0
    while at < len(words):
        emotion, length = _match(words, at)
        if emotion and not _negated(words, at):
            yield emotion, at, at + length
        at += length


def _match(words: list[str], at: int) -> tuple[str | None, int]:
    """The emotion of the longest phrase at words[at], and the number of words to skip."""
    for phrase, emotion in _PHRASES.get(words[at], ()):
        if tuple(words[at : at + len(phrase)]) == phrase:
            return emotion, len(phrase)
    if words[at].startswith(_ALL_STEMS):
        return next(e for e, stems in _STEMS.items() if words[at].startswith(stems)), 1
    return None, 1


def _negated(words: list[str], at: int) -> bool:
    # A phrase may itself start with a negator ("not a fan"), so only the words before it matter;
    # punctuation ends the clause, and with it the negation's reach.
    before = words[max(0, at - NEGATION_WORDS) : at]
    for i, word in enumerate(before):
        if word in _MARKS:
            before = before[i + 1 :]
    return not NEGATORS.isdisjoint(before)


def _entries(emotion: str) -> list[tuple[str, ...]]:
    return [tuple(entry.split()) for entry in CUES[emotion].split(",")]


def _phrase_table() -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """{first word: its phrases, longest first}."""
    table: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for emotion in CUES:
        for phrase in _entries(emotion):
            if not phrase[0].endswith("*"):
                table.setdefault(phrase[0], []).append((phrase, emotion))
    for phrases in table.values():
        phrases.sort(key=lambda entry: -len(entry[0]))
    return table


_EMOTICON_PATTERNS = {emotion: re.compile(pattern) for emotion, pattern in EMOTICONS.items()}
_PHRASES = _phrase_table()
_STEMS = {e: tuple(p[0][:-1] for p in _entries(e) if p[0].endswith("*")) for e in CUES}
_ALL_STEMS = tuple(stem for stems in _STEMS.values() for stem in stems)
