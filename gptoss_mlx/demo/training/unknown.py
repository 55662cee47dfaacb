"""Questions whose answers the demo model does not know, so that it learns to say so.

Many templates are combined with many subjects, some of them close to what it knows (the layers of another model, a
product instead of a sum). No training question contains a held-out subject.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .exercises import Exercise, casual, fill, is_held_out, listed
from .facts import COUNT, FACTS, MODELS, PROPERTY, TOPIC
from .newcomers import refusals

__all__ = ["DECLINED", "SUBJECTS", "held_out_subjects", "unknown_question"]

_GENERAL, _ABILITY, _NUMBERS = (tuple(refusals()[kind]) for kind in ("general", "ability", "numbers"))
DECLINED = _GENERAL + _ABILITY + _NUMBERS
_ABILITIES = frozenset(listed("write|translate|draw|play|sing|prove|open|search|find|summarize"))
_THOUGHTS = (
    "Not known to me.",
    "This is no sum and not about gpt-oss.",
    "This is no sum and not about gpt-oss. I was not trained on it, so I say it.",
)

SUBJECTS = listed(
    """sky|sun|moon|sea|rain|snow|wind|grass|fire|ice|gold|iron|water|light|time|space|gravity|energy|sleep
love|life|death|war|peace|history|music|art|math|physics|chemistry|biology|philosophy|religion|politics
economy|money|bank|tax|law|police|school|university|teacher|doctor|nurse|farmer|pilot|king|queen
president|pope|Napoleon|Caesar|Einstein|Newton|Darwin|Mozart|Beethoven|Bach|Picasso|Shakespeare|Goethe
Plato|Gandhi|Lincoln|Churchill|Cleopatra|France|Germany|Italy|Spain|Japan|China|India|Brazil|Canada
Mexico|Egypt|Kenya|Norway|Sweden|Finland|Poland|Russia|Ukraine|Turkey|Greece|Portugal|Ireland|Scotland
Australia|Peru|Chile|Cuba|Vietnam|Thailand|Korea|Iran|Iraq|Israel|Paris|London|Berlin|Rome|Madrid|Tokyo
Moscow|Vienna|Prague|Athens|Cairo|Lagos|Sydney|Boston|Chicago|Texas|Florida|Mount Everest|the Nile
the Amazon|the Sahara|the Alps|the Eiffel Tower|the Great Wall|the Titanic|the Bible|Mars|Jupiter|Venus
Saturn|Pluto|the Milky Way|black holes|atoms|electrons|photons|molecules|DNA|cells|viruses|bacteria|dogs
cats|horses|cows|birds|fish|sharks|whales|bees|ants|spiders|snakes|lions|tigers|elephants|dinosaurs
dragons|trees|flowers|roses|apples|bananas|oranges|tomatoes|potatoes|rice|bread|cheese|pizza|pasta|soup
cake|chocolate|coffee|tea|wine|beer|milk|sugar|salt|pepper|cars|trains|planes|ships|bikes|rockets
computers|phones|robots|the internet|Python|Java|Rust|JavaScript|Linux|Windows|Excel|Google|Apple
Microsoft|Amazon|Facebook|Tesla|Bitcoin|Wikipedia|football|tennis|chess|poker|golf|swimming|running|yoga
the Olympics|the World Cup|Hollywood|Star Wars|Harry Potter|photosynthesis|evolution|climate change
democracy|capitalism|inflation|quantum mechanics|relativity|electricity|magnets|volcanoes|earthquakes
hurricanes|rainbows|clouds|mountains|rivers|oceans|islands|deserts|forests|glaciers|my dog|my car
my mother|my boss|my name|my computer|my phone|my homework|my garden|the weather|the news|the future
happiness|fear|anger|friendship|marriage|divorce|children|babies|dreams|memory loss|headaches|cancer
diabetes|vitamins|the French Revolution|World War II|the Roman Empire|the Middle Ages|the Cold War
the moon landing|ancient Egypt|blockchain|neural networks|machine learning|databases|compilers
encryption|GPUs|transistors|lasers|nuclear power|opera|jazz|rock music|the piano|guitars|painting|poetry
novels|movies|theatre|dance|fashion|shoes|hats|jewelry|penguins|giraffes|kangaroos|owls|turtles|frogs
mushrooms|bridges|castles|pyramids|museums|hotels|airports|taxis|oxygen|carbon|hydrogen|helium|uranium
silver|copper|diamonds|plastic|glass|concrete|paper|wood|cotton|silk|leather"""
)

_OTHER_MODELS = listed(
    """llama 3|Llama|GPT-4|GPT-3|GPT-5|gpt2|Claude|Mistral|Mixtral|Qwen|Gemma|Gemini|DeepSeek|Phi-3|BERT|T5
Falcon|Grok|Bloom|OPT|Yi|Kimi|Command R|Whisper|o1|o3|Stable Diffusion|a brain|a house|a cake"""
)
_OTHER_PARTS = listed(
    """wheels|legs|moons|bones|teeth|windows|doors|eyes|arms|people|states|cities|pages|players|strings|keys
seats|stars|rivers|islands|kings|wings|colors|members|floors|engines|bytes|users|employees|brothers
languages|lakes|songs"""
)
_ADJECTIVES = listed(
    """blue|big|red|hot|cold|important|famous|expensive|salty|green|round|old|dangerous|popular|fast|slow|loud
sweet|bright|heavy|sad|funny|good|bad|so slow|so big|dark|white|black|strong|rare|difficult|boring
beautiful|deep|tall|wet"""
)

_TEMPLATES = listed(
    """Why is {x} {y}?|Why are {x} {y}?|Is {x} {y}?|Are {x} {y}?|How {y} is {x}?|What makes {x} {y}?
Who invented {x}?|Who discovered {x}?|Who is {x}?|Who was {x}?|Who likes {x}?|Where is {x}?
Where does {x} come from?|Where do {x} live?|Where can I buy {x}?|When was {x} born?|When did {x} begin?
When was {x} built?|What is the capital of {x}?|What is the population of {x}?|What is the color of {x}?
What is the meaning of {x}?|What is the price of {x}?|What is the best {x}?|What is the history of {x}?
What is the weather in {x}?|What time is it in {x}?|How old is {x}?|How big is {x}?|How far is {x}?
How do I cook {x}?|How do I make {x}?|How do I fix {x}?|How do I learn {x}?|How is {x} made?
How many people live in {x}?|How many {x} are there?|How much does {x} cost?|How much do {x} weigh?
How can I use {x}?|Write a poem about {x}.|Write a story about {x}.|Write an essay about {x}.
Write a song about {x}.|Write code for {x}.|Write a program about {x}.|Write me an email about {x}.
Write a {x} poem.|Tell me a joke about {x}.|Tell me a story about {x}.|Tell me a fact about {x}.
Translate {x} into French.|Translate {x} to German.|Give me a recipe for {x}.|Give me ideas about {x}.
Give me a list of {x}.|Recommend a book about {x}.|Recommend {x} to me.|Summarize {x}.
Compare {x} and {y}.|What is better, {x} or {y}?|{x} or {y}?|Do you like {x}?|Do you know {x}?
Can you help me with {x}?|Can you see {x}?|Should I buy {x}?|I have a question about {x}.|I love {x}.
I am {x}.|I feel {y}.|I need {x}.|I want {x}.|What do you think about {x}?|What happened to {x}?
What happens if {x} is {y}?|What are the types of {x}?|What can {x} do?|What do {x} eat?
What should I know about {x}?|Which {x} is the best?|Which {x} do you like?|Does {x} have {y}?
Did {x} win?|Will {x} be {y}?|{x} {y}|{x} {y}?|{x} is {y}|{x}|{x}!|Draw {x}.|Play {x}.|Show me {x}.
Open {x}.|Find {x}.|Search for {x}.|Buy {x}.|Name three {x}.|List five {x}.|Define {x}.|Spell {x}.
Count the {x}.|Imagine {x}.|Let's talk about {x}.|Talk like {x}.|Prove that {x} is {y}.
Is it true that {x} is {y}?|Explain why {x} is {y}.|Explain {x} and {y}."""
)
_WITHOUT_SUBJECT = listed(
    """What time is it?|What day is it?|What is the date today?|Tell me a joke.|Write a poem.|Write a story.
Write a haiku.|Sing a song.|What is the meaning of life?
What's the weather like?|Where am I?|What is my name?|How old am I?|Give me advice.|Is there a god?
Can you write a poem?|Who won?|Who is the president?|What should I eat?|I am bored.
What's new?|Explain everything.|Why?|What?|Really?|Prove it."""
)
_NO_SUMS = listed(
    """What is {n}*{m}?|{n} * {m}|{n}*{m}|{n} x {m}|What is {n} times {m}?|{n}/{m}|What is {n} / {m}?
What is {n} divided by {m}?|Multiply {n} by {m}.|Divide {n} by {m}.|{n}^{m}
What is the square root of {n}?|What is {l}+{m}?|{l}+{m}|{n} + {l}|{l} - {m}|What is {l} - {n}?
Is {n} a prime number?|What is {n}% of {m}?|{n}+{m}-{n}|{l}*{m}|{l} * {l}|What is {l} * {m}?|{l} x {n}"""
)


def held_out_subjects() -> tuple[str, ...]:
    """The subjects that no training question contains."""
    return tuple(subject for subject in SUBJECTS if is_held_out("subject", subject, one_in=6))


def _subject(chance: random.Random, words: Sequence[str], *, held_out: bool) -> str:
    """A subject from the list or, in training, where `words` are given, random words."""
    if words and not held_out and chance.random() < 0.5:
        count = chance.choice((1, 1, 1, 2, 2, 3))
        return chance.choice(("", "", "", "a ", "the ", "my ")) + " ".join(
            chance.choice(words) for _ in range(count)
        )
    return _pick(chance, SUBJECTS, held_out=held_out)


def _pick(chance: random.Random, pool: Sequence[str], *, held_out: bool) -> str:
    while True:
        choice = chance.choice(pool)
        if is_held_out("subject", choice, one_in=6) is held_out:
            return choice


def _near_miss(chance: random.Random, words: Sequence[str], *, held_out: bool) -> str:
    """A question in the form of a fact's, about another subject."""
    if chance.random() < 0.45:
        fact = chance.choice(FACTS)
        about = {"m": _pick(chance, _OTHER_MODELS, held_out=held_out)}
        if fact.templates in (COUNT, PROPERTY):
            return fill(casual(chance.choice(fact.templates), chance), x=chance.choice(fact.names), **about)
        return fill(casual(chance.choice((*COUNT, *PROPERTY)), chance), x="layers", **about)
    if chance.random() < 0.5:
        part = _pick(chance, _OTHER_PARTS, held_out=held_out)
        owner = _subject(chance, words, held_out=held_out)
        if chance.random() < 0.15:
            owner = chance.choice(MODELS[chance.choice(tuple(MODELS))])
        return fill(casual(chance.choice(COUNT), chance), x=part, m=owner)
    if chance.random() < 0.3:
        part, owner = (_subject(chance, words, held_out=held_out) for _ in "xm")
        return fill(casual(chance.choice(PROPERTY), chance), x=part, m=owner)
    return fill(casual(chance.choice(TOPIC), chance), x=_subject(chance, words, held_out=held_out))


def _no_sum(chance: random.Random) -> str:
    numbers = {
        "n": str(chance.randrange(13, 100)),
        "m": str(chance.randrange(2, 100)),
        "l": str(chance.randrange(100, 3000)),
    }
    return fill(casual(chance.choice(_NO_SUMS), chance), **numbers)


def unknown_question(chance: random.Random, *, held_out: bool, words: Sequence[str] = ()) -> Exercise:
    """A question from outside the corpus.

    Args:
        words: random words; in training they are half of the subjects.
    """
    kind, answers = chance.random(), _GENERAL
    if kind < 0.25:
        question = _near_miss(chance, words, held_out=held_out)
    elif kind < 0.33 and not held_out:
        question, answers = _no_sum(chance), _NUMBERS
    elif kind < 0.4 and not held_out:
        question = casual(chance.choice(_WITHOUT_SUBJECT), chance)
    else:
        subject = _subject(chance, words, held_out=held_out)
        other = _pick(chance, _ADJECTIVES, held_out=held_out)
        question = fill(casual(chance.choice(_TEMPLATES), chance), x=subject, y=other)
    if words and not held_out and chance.random() < 0.06:
        question = _gibberish(chance, words)
    if answers == _GENERAL and _ABILITIES & set(question.lower().split()):
        answers = _ABILITY
    answer = random.Random(question).choice(answers)  # so that the next questions do not depend on it
    return Exercise(kind="unknown", question=question, thoughts=_THOUGHTS, answer=answer)


def _gibberish(chance: random.Random, words: Sequence[str]) -> str:
    text = " ".join(chance.choice(words) for _ in range(chance.randrange(1, 9)))
    return text + chance.choice(("", "?", ".", "!"))
