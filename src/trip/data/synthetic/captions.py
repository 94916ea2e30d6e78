"""Wordings of the synthetic clips: many for training, others held out; opposite moves share none.

A pattern is a sentence with alternatives in brackets, ``[the camera|camera] ~[pans|moves] left``; ``~`` marks
where an adverb of speed may stand and ``^`` where an adjective may; ``{name}`` is the moving object. Patterns
are written for one direction and mirrored word by word for the other. The speed word is bound to the amount
of motion (`trip.data.synthetic.scenes.AMOUNTS`).
"""

import itertools
import re
from functools import cache

import numpy as np

CAMERA_KINDS = (
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "rotate_clockwise",
    "rotate_counterclockwise",
)
OBJECT_KINDS = (
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "bounce",
    "sway",
    "spin_clockwise",
    "spin_counterclockwise",
)
EFFECT_KINDS = ("rain", "snow", "flicker", "ripple", "still")
KINDS = CAMERA_KINDS + OBJECT_KINDS + EFFECT_KINDS
SPEEDS = ("slow", "normal", "fast")
SPLITS = ("train", "heldout")

_OPPOSITES = {
    "pan_left": "pan_right",
    "tilt_up": "tilt_down",
    "zoom_in": "zoom_out",
    "rotate_clockwise": "rotate_counterclockwise",
    "move_left": "move_right",
    "move_up": "move_down",
    "spin_clockwise": "spin_counterclockwise",
    "bounce": "bounce",
    "flicker": "flicker",
    "still": "still",
}
OPPOSITE = _OPPOSITES | {after: before for before, after in _OPPOSITES.items()}

ADVERBS = {
    "slow": ("slowly", "gently", "gradually"),
    "normal": ("",),
    "fast": ("quickly", "fast", "rapidly"),
}
ADJECTIVES = {"slow": ("slow", "gentle"), "normal": ("",), "fast": ("quick", "fast", "rapid")}

_LEFT = "[left|to the left|toward the left|leftwards|to the left side]"
_UP = "[up|upwards|upward|toward the top]"
_TURN = "[clockwise|in a clockwise direction]"
_PICTURE = "[the picture|the image|the photo|the scene|the whole picture]"
_CAMERA = "[the camera|camera|the shot]"
_NAME = "[the|a] {name}"

_TRAIN = {
    "pan_left": (
        f"{_CAMERA} ~[pans|moves|turns|is panning] {_LEFT}",
        "[~pan|~panning] [left|to the left|toward the left] [|with the camera]",
        "[|a ]^[pan left|pan to the left|left pan|move to the left]",
        "camera [pan left|move left|to the left]",
        f"the view ~[pans|moves|turns] {_LEFT}",
        "the camera ~[travels|looks|goes] [left|to the left]",
        f"{_CAMERA} ~[trucks|tracks|dollies|swings|veers|edges|wanders] {_LEFT}",
        "the [view|frame|window] ~[travels|swings|creeps|wanders] [left|to the left|leftwards]",
        "[turn|point|aim|swing] the camera ~[left|to the left]",
        "[show|reveal] what is [|further ]to the left",
    ),
    "tilt_up": (
        f"{_CAMERA} ~[tilts|moves|pans|is tilting|looks] {_UP}",
        "[~tilt|~tilting] [up|upwards|upward] [|with the camera]",
        "[|a ]^[tilt up|tilt upwards|move upwards]",
        "camera [tilt up|move up|pan up]",
        f"the view ~[tilts|moves|turns] {_UP}",
        "the camera ~[rises|goes up|looks up|travels up]",
        f"{_CAMERA} ~[cranes|swings|wanders|edges|creeps|aims|points] {_UP}",
        "the [view|frame|window] ~[travels|swings|creeps|wanders] [up|upwards|upward]",
        "[turn|point|aim|swing] the camera ~[up|upwards|upward]",
    ),
    "zoom_in": (
        f"{_CAMERA} ~[zooms in|is zooming in|moves in|moves closer|pushes in|moves forward|gets nearer]",
        "[~zoom|~zooming] in [|on the picture|with the camera|closer]",
        "[|a ]^[zoom in|zoom into the picture|push in|move forward]",
        "camera [zoom in|push in|move forward]",
        "the view ~[zooms in|moves in|moves closer|gets closer|narrows]",
        "the camera ~[goes forward|goes closer|comes closer|zooms into the picture]",
        f"{_CAMERA} ~[dollies in|tracks in|creeps in|travels forward|edges closer|presses forward|flies forward]",
        "[bring|take|push] the camera ~[closer|nearer|in]",
        "~[magnify|enlarge] [the picture|the middle of the picture|the centre]",
        "everything ~[gets bigger|grows larger|comes toward us]",
    ),
    "zoom_out": (
        f"{_CAMERA} ~[zooms out|is zooming out|moves out|moves back|pulls back|moves backward]",
        f"{_CAMERA} ~[moves away|gets farther away]",
        "[~zoom|~zooming] out [|of the picture|with the camera|further]",
        "[|a ]^[zoom out|zoom out of the picture|pull back|move backward]",
        "camera [zoom out|pull back|move backward]",
        "the view ~[zooms out|moves out|moves back|gets wider|widens]",
        "the camera ~[goes back|goes backward|goes away|zooms out of the picture]",
        f"{_CAMERA} ~[dollies out|tracks out|creeps out|travels backward|edges away|withdraws|flies backward]",
        "[bring|take|pull] the camera ~[away|back|out]",
        "~[shrink|reduce] [the picture|the middle of the picture|the centre]",
        "everything ~[gets smaller|becomes smaller|goes away from us]",
    ),
    "rotate_clockwise": (
        f"{_PICTURE} ~[rotates|turns|is rotating|spins] {_TURN}",
        "[~rotate|~turn] [|the picture |the image ]clockwise",
        "[|the picture |the image |everything ]~[rotating|turning] clockwise",
        "[|a ]^[clockwise rotation|clockwise turn|rotation clockwise] [|of the picture|of the image]",
        "everything ~[rotates|turns|spins] clockwise",
        f"{_PICTURE} ~[wheels|swings|whirls|goes round|tips] {_TURN}",
        "[rotate|turn|spin] [it|everything|the whole picture] ~clockwise",
    ),
    "move_left": (
        f"{_NAME} ~[moves|goes|travels|is moving|flies|runs|slides] {_LEFT}",
        f"{_NAME} ~[moving|going] [left|to the left]",
        "[move|push|bring] the {name} ~[left|to the left]",
        "have the {name} ~[move|go|slide] [left|to the left]",
        "the {name} ~[moves|goes] [left|to the left] across the picture",
        f"{_NAME} ~[wanders|walks|drives|swims|hurries|rolls|crawls|rushes|swings|creeps] {_LEFT}",
        "[send|take|pull|slide|carry] the {name} ~[left|to the left]",
    ),
    "move_up": (
        f"{_NAME} ~[moves|goes|travels|is moving|flies|floats|slides] {_UP}",
        f"{_NAME} ~[moving|going] {_UP}",
        "[move|lift|bring] the {name} ~[up|upwards]",
        "have the {name} ~[move|go|rise] [up|upwards]",
        "the {name} ~rises [|up|into the air]",
        f"{_NAME} ~[climbs|soars|flies|swims|hovers|jumps|creeps] {_UP}",
        "[send|raise|take|pull|slide|carry] the {name} ~[up|upwards]",
    ),
    "move_down": (
        f"{_NAME} ~[moves|goes|travels|is moving|flies|floats|slides] [down|downwards|downward|toward the bottom]",
        f"{_NAME} ~[moving|going] [down|downwards|downward|toward the bottom]",
        "[move|lower|bring] the {name} ~[down|downwards]",
        "have the {name} ~[move|go|sink] [down|downwards]",
        "the {name} ~[sinks|falls|drops] [|down|to the ground]",
        f"{_NAME} ~[climbs|dives|flies|swims|tumbles|descends|creeps] [down|downwards|downward|toward the bottom]",
        "[send|drop|take|pull|slide|carry] the {name} ~[down|downwards]",
    ),
    "spin_clockwise": (
        f"{_NAME} ~[spins|rotates|turns|is spinning] {_TURN}",
        "[spin|rotate|turn] the {name} ~clockwise",
    ),
    "bounce": (f"{_NAME} [bounces|is bouncing|hops|jumps] [|up and down]", "[|a ]bouncing {name}"),
    "sway": (
        f"{_NAME} [sways|is swaying|rocks|swings] [|from side to side|back and forth]",
        "[|a ]swaying {name}",
    ),
    "rain": (
        "[it rains|it is raining|rain falls|rain is falling|it starts to rain|heavy rain] [|over the scene]",
        "rain",
    ),
    "snow": (
        "[it snows|it is snowing|snow falls|snow is falling|it starts to snow] [|over the scene]",
        "snowflakes fall",
        "snow",
    ),
    "flicker": (
        "[the light|the picture|the brightness|the image] [flickers|pulses|is flickering|pulsates]",
        "[flickering|pulsing] light",
    ),
    "ripple": (
        "[the picture|the scene|the image|everything] [ripples|is rippling|wobbles|shimmers] [|like water]",
        "[ripples|waves] [|go over the picture]",
    ),
    "still": (
        "[nothing moves|the picture stays still|the image stays still|a still picture]",
        "[nothing happens|no motion|everything is still]",
        "[the camera|the picture|the scene] [does not move|is still|stays still|is static]",
        "[a static shot|static shot|static camera]",
    ),
}

_HELDOUT = {
    "pan_left": (
        "the view ~slides toward the left",
        "camera ~drifts leftwards",
        "the shot ~sweeps over to the left side",
        "we ~look further to the left",
        "the lens ~swivels to the left",
        "the viewpoint ~shifts leftward",
        "a ^leftward sweep of the camera",
        "[make|let] the camera ~pan over to the left",
    ),
    "tilt_up": (
        "the view ~slides upwards",
        "camera ~drifts upward",
        "the shot ~sweeps up to the top",
        "we ~look further up",
        "the lens ~swivels upwards",
        "the viewpoint ~shifts upward",
        "an upward sweep of the camera",
        "[make|let] the camera ~tilt up",
    ),
    "zoom_in": (
        "the lens ~zooms in on the middle",
        "we ~get nearer to the subject",
        "the shot ~closes in",
        "a ^move deeper into the scene",
        "the viewpoint ~advances into the scene",
        "the camera ~approaches the subject",
        "[make|let] the camera ~zoom in",
    ),
    "zoom_out": (
        "the lens ~zooms out from the middle",
        "we ~get farther from the subject",
        "the shot ~widens to show more",
        "a ^move back out of the scene",
        "the viewpoint ~retreats from the scene",
        "the camera ~backs away from the subject",
        "[make|let] the camera ~zoom out",
    ),
    "rotate_clockwise": (
        "the frame ~revolves clockwise",
        "the photograph ~swivels clockwise",
        "the whole scene ~twists clockwise",
        "the content of the frame ~pivots clockwise",
        "the photograph ~rolls clockwise about its centre",
        "[make|let] the picture ~rotate clockwise",
    ),
    "move_left": (
        "the {name} ~heads left",
        "the {name} ~drifts over to the left side",
        "a {name} ~making its way left",
        "the {name} ~glides leftwards",
        "see the {name} ~shift to the left",
        "[make|let] the {name} ~move left",
    ),
    "move_up": (
        "the {name} ~heads up",
        "the {name} ~drifts up to the top",
        "a {name} ~making its way up",
        "the {name} ~glides upwards",
        "see the {name} ~shift upward",
        "[make|let] the {name} ~move up",
    ),
    "spin_clockwise": ("the {name} ~revolves clockwise", "[make|let] the {name} ~turn clockwise"),
    "bounce": ("the {name} springs up and down", "[make|let] the {name} bounce"),
    "sway": ("the {name} wobbles left and right", "[make|let] the {name} sway"),
    "rain": ("raindrops come down", "a downpour begins"),
    "snow": ("flakes of snow come down", "a snowfall begins"),
    "flicker": ("the lamp brightens and dims", "make the light flicker"),
    "ripple": ("a watery distortion", "make the picture ripple"),
    "still": ("keep the picture frozen", "hold the shot without any motion"),
}

_MIRROR = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "up": "down",
    "upwards": "downwards",
    "upward": "downward",
    "top": "bottom",
    "rises": "sinks",
    "clockwise": "counterclockwise",
}


def _mirrored(pattern: str) -> str:
    pattern = re.sub(r"\ban upward", "a downward", pattern)
    return re.sub(r"[a-z]+", lambda match: _MIRROR.get(match[0], match[0]), pattern)


def _spelled(pattern: str) -> str:
    return pattern.replace("counterclockwise", "[counterclockwise|counter-clockwise|anticlockwise]")


def _patterns(kind: str, split: str) -> tuple[str, ...]:
    if split not in SPLITS:
        raise ValueError(f"split (={split!r}) is not one of {SPLITS}")
    if kind not in KINDS:
        raise ValueError(f"kind (={kind!r}) is not one of {KINDS}")
    table = _TRAIN if split == "train" else _HELDOUT
    if kind in table:
        return table[kind]
    return tuple(_spelled(_mirrored(pattern)) for pattern in table[OPPOSITE[kind]])


def _expand(pattern: str) -> list[str]:
    parts = re.split(r"\[([^\[\]]*)\]", pattern)
    if len(parts) == 1:
        return [pattern]
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return list(dict.fromkeys(x for c in itertools.product(*choices) for x in _expand("".join(c))))


@cache
def _wordings(kind: str, split: str) -> tuple[tuple[str, ...], ...]:
    """Expanded wordings, markers included, one tuple a pattern."""
    return tuple(tuple(_expand(pattern)) for pattern in _patterns(kind, split))


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _with_speed(wording: str, word: str, adjective: str, at_end: bool) -> str:
    if "^" in wording:
        return _tidy(wording.replace("^", f"{adjective} "))
    if "~" not in wording or not word:
        return _tidy(wording.replace("~", ""))
    if at_end or word == "fast":
        return _tidy(f"{wording.replace('~', '')} {word}")
    return _tidy(wording.replace("~", f"{word} "))


def _speeds_of(wording: str, speed: str) -> list[str]:
    if not set("~^") & set(wording):
        return [_tidy(wording)] if speed == "normal" else []
    words = itertools.product(ADVERBS[speed], ADJECTIVES[speed])
    spoken = (_with_speed(wording, adverb, adjective, end) for adverb, adjective in words for end in (False, True))
    return list(dict.fromkeys(spoken))


def all_captions(kind: str, split: str = "train", *, speed: str | None = None, name: str = "thing") -> list[str]:
    """Returns every wording of a kind, without photo subjects and variations of case and punctuation.

    Args:
        kind: one of `KINDS`.
        split: "train" or "heldout".
        speed: "slow", "normal", "fast", or None for all three.
        name: the moving object, for the kinds of `OBJECT_KINDS`.
    """
    speeds = SPEEDS if speed is None else (speed,)
    flat = [wording for group in _wordings(kind, split) for wording in group]
    captions = [caption for wording in flat for s in speeds for caption in _speeds_of(wording, s)]
    return [_with_name(caption, name) for caption in dict.fromkeys(captions)]


def _pick(rng: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[int(rng.integers(len(items)))]


def _pick_wording(rng: np.random.Generator, kind: str, split: str, speed: str) -> str:
    groups = (tuple(w for w in group if speed == "normal" or set("~^") & set(w)) for group in _wordings(kind, split))
    usable = [group for group in groups if group]
    if not usable:
        raise ValueError(f"kind {kind!r} has no wording for speed {speed!r}; use 'normal'")
    weights = np.sqrt([len(group) for group in usable])
    group = usable[int(rng.choice(len(usable), p=weights / weights.sum()))]
    wording = _pick(rng, group)
    return _with_speed(wording, _pick(rng, ADVERBS[speed]), _pick(rng, ADJECTIVES[speed]), bool(rng.random() < 0.5))


def _with_name(clause: str, name: str) -> str:
    article = "an" if name[0].lower() in "aeio" else "a"
    return re.sub(r"\ba (?=\{name\})", f"{article} ", clause).format(name=name)


def _with_scene(rng: np.random.Generator, clause: str, scene: str) -> str:
    form = _pick(rng, ("{s}, {c}", "a photo of {s}, {c}", "a picture of {s}, {c}", "{s}. {c}", "{c}, {s}", "{c}. {s}"))
    return form.format(s=scene, c=clause)


def _varied(rng: np.random.Generator, text: str) -> str:
    if rng.random() < 0.35:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.3 else text


def draw_caption(
    kind: str,
    rng: np.random.Generator,
    split: str = "train",
    subject: str | None = None,
    speed: str | None = None,
) -> str:
    """Draws a caption; the same generator state gives the same caption.

    Args:
        kind: one of `KINDS`.
        rng: source of all randomness.
        split: "train" or "heldout"; the two share no wording.
        subject: the moving object's name for object kinds (needed there); what the photo shows for the others
            (used in a third of the captions).
        speed: "slow", "normal" or "fast"; None means "normal".

    Raises:
        ValueError: unknown kind, split or speed, or an object kind without a subject.
    """
    speed = speed or "normal"
    if speed not in SPEEDS:
        raise ValueError(f"speed (={speed!r}) is not one of {SPEEDS}")
    clause = _pick_wording(rng, kind, split, speed)
    if kind in OBJECT_KINDS:
        if not subject:
            raise ValueError(f"kind {kind!r} needs subject=, the name of the moving object")
        clause = _with_name(clause, subject)
    elif subject and rng.random() < 1 / 3:
        clause = _with_scene(rng, clause, subject)
    return _varied(rng, clause)
