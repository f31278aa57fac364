"""English words that refer to nothing in an image: articles, pronouns, prepositions,
conjunctions and auxiliaries, a closed class."""

FUNCTION_WORDS = frozenset(
    "a about above across against along am an and any are around as at be been behind "
    "being below beside between but by can could did do does down each every for from "
    "had has have having he her here him his if in into is it its may might must near "
    "next no nor not of off on onto or out over shall she should so some than that "
    "the their them there these they this those through to under up was were what "
    "when where which while who whose will with without would".split()
)
