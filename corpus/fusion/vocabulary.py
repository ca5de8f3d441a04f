"""What the check knows of English: which words carry no fact, which say by which sense something is known, which exclude each other."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
DETERMINERS = ARTICLES | _words("my his her its our their your this these those some another each every several many few both")
PLACES = _words("on in before behind over under against near by across along through inside into onto above below beside between from "
                "around beneath toward towards past upon among within")
"""What follows one of these is where something happens, and not what it is about."""
BE = _words("is are was were be being been 's")
FUNCTION = DETERMINERS | PLACES | BE | _words(
    "i me you he him she it we us they them mine yours hers theirs myself itself themselves who whom whose which what that there here "
    "of to at with as for about after off out than like via per while when where whereas and or but so if then because though although "
    "until since during have has had do does did can could will would shall should may might must am get gets got let lets also just "
    "only too very quite rather really still even again all any other others such same own more most much lot once together both "
    "someone somebody something anyone anything everyone one's it's that's there's")
NEGATIONS = _words("no not never none nothing nobody without neither nor cannot don't doesn't isn't aren't can't won't")
NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
                 "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen")
COLOURS = _words("red orange yellow green turquoise blue purple pink brown black white grey gray silver golden gold violet beige")
EXCLUSIVE = (COLOURS, NUMBERS,
             _words("left right up down growing grow grows grown shrinking shrink shrinks shrunk turning turns turned turn larger bigger "
                    "smaller"), _words("man woman boy girl"), _words("day night"), _words("indoors outdoors"),
             _words("young old"), _words("fast slow"), _words("loud quiet silent"), _words("open closed"), _words("wet dry"),
             _words("morning noon evening"), _words("spring summer autumn winter"))
"""Of each set only one is true of the same thing."""
SEEN, HEARD, SAID = "vision", "audio", "subtitle"
CUES = {
    SEEN: _words("see sees seen seeing show shows shown showing appear appears appearing appeared visible look looks looking view "
                 "screen picture pictures image images video clip footage scene watch watching display displayed frame"),
    HEARD: _words("hear hears heard hearing sound sounds sounding noise noises audible listen listening audio recording soundtrack"),
    SAID: _words("say says said saying voice voices talk talks talking talked speak speaks speaking spoken speaker mention mentions "
                 "mentioning mentioned tell tells telling told discuss discusses discussing discussed topic subject story narrator "
                 "narrates narrating explain explains explaining describes describing words word speech conversation asks"),
}
"""Words that tell by which sense something is known. They need no source."""
OF_THEMSELVES = _words("appear appears appearing appeared visible audible sounds sounding heard seen shown mentioned discussed")
"""Such words about what stands before them: "a pig sounds"."""
NEUTRAL = frozenset.union(*CUES.values()) | _words(
    "background foreground front person persons people goes go going come comes coming make makes making made play plays playing played "
    "accompanied accompanies accompanying along meanwhile time same moment way kind part piece short brief sudden now")
"""What a caption may add to its sources, and what is no fact by itself."""
PRONOUNS = _words("i you he she it we they who to would will can could should must might may")
"""What follows one of these is done, and no thing."""
LIKE_ADVERBS = _words("fly butterfly family jelly belly lily bully ally assembly supply reply dragonfly firefly")
"""Words in -ly that are things."""
SAME = {"bicycle": "bike", "bicycles": "bike", "television": "tv", "automobile": "car", "airplane": "plane", "aeroplane": "plane",
        "aircraft": "plane", "photo": "photograph", "telephone": "phone", "cellphone": "phone", "couch": "sofa", "kid": "child",
        "kids": "child", "lady": "woman", "guy": "man", "gentleman": "man", "grey": "gray", "automobiles": "car", "colour": "color",
        "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose",
        "wolves": "wolf", "flies": "fly", "knives": "knife", "leaves": "leaf",
        "ran": "run", "rode": "ride", "sang": "sing", "spoke": "speak",
        "drove": "drive", "flew": "fly", "swam": "swim", "threw": "throw", "fell": "fall", "stood": "stand", "took": "take",
        "taken": "take", "gave": "give", "given": "give", "paid": "pay", "sent": "send", "found": "find", "drew": "draw", "drawn": "draw",
        "wrote": "write", "written": "write", "dreamt": "dream", "dreamed": "dream", "swapped": "swap", "brought": "bring",
        "bought": "buy", "went": "go", "thought": "think", "loves": "love", "lost": "lose"}
PERSONS = _words("man woman boy girl child baby person player rider singer speaker worker cyclist driver teacher chef runner dancer")
"""Whoever says "person" agrees with each of these."""
VERBS = _words(
    "moves moving moved grows growing grew shrinks shrinking shrank turns turning turned rides riding walks walking walked runs running "
    "stands standing sits sitting sat lies lying plays playing played holds holding held eats eating ate drinks drinking jumps jumping "
    "jumped swims swimming flies flying flew drives driving cooks cooking cuts cutting slices slicing chops chopping sings singing "
    "dances dancing barks barking meows meowing chirps chirping crunches crunching blows blowing rings ringing beats beating talks "
    "talking says saying speaks speaking looks looking wears wearing works working uses using makes making takes taking gives giving "
    "goes going comes coming opens opening closes closing falls falling throws throwing catches catching kicks kicking hits hitting "
    "climbs climbing waits waiting watches watching reads reading writes writing sounds sounding appears appearing shows showing "
    "happens starts starting begins beginning stops stopping ends ending passes passing stays staying sleeps sleeping smiles smiling "
    "laughs laughing cries crying puts putting pulls pulling pushes pushing carries carrying picks picking fills filling pours pouring "
    "mixes mixing stirs stirring paints painting draws drawing spins spinning rolls rolling slides sliding hangs hanging leans leaning "
    "points pointing explains explaining asked told came went been can could will would love loves larger bigger smaller ago back away")
"""Words that end the name of a thing, if they do not begin it: "a cow | moves"."""
NOT_FORMS = _words("thing king ring wing string spring ceiling building morning evening railing wedding clothing pudding lightning bring "
                   "during sing bed red seed shed sled speed weed breed feed bleed need hundred glass grass dress cross class mess boss "
                   "moss kiss bus gas lens iris abalone species walrus octopus cactus hibiscus hippopotamus this us news always "
                   "perhaps canvas christmas atlas focus virus campus bonus series tennis")
"""Words that end like a form of another and are none."""
