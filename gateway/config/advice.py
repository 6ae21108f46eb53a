"""What is legal and unwise: warnings about one tag's keys, about names, and about what travels in the clear.

Each is said only where it smells. A float that is scaled is often a conversion of units, so only the factors of
registers without a point (0.1, 0.01, or a power of ten on a tag without a unit) are named, and not where most of a
device's floats have one: some meters give them so. A unit is never an error:
who writes `barr` is asked whether `bar` was meant, who writes `cps` is left alone.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from gateway.model import Tag

Finding = tuple[str, str, str]
"""The key that it is about (empty: the tag itself), what is unwise, what to do."""

_UNITS: Final = """
% ‰ ppm ppb 1 pcs pcs/min 件 个 台 次 只 片 箱 包 吨 千克 公斤 克 米 毫米 升 立方米
度 千瓦 千瓦时 兆瓦 伏 安 瓦 赫兹
m mm cm dm km um µm μm nm in ft m2 m² mm2 cm2 m3 m³ Nm3 Nm³ cm3 L l mL ml hL gal
s ms us µs ns min h d a wk mo
g kg mg t lb kg/m3 kg/m³ g/cm3 g/L mg/L mg/m3 mg/m³ ug/m3 µg/m³ μg/m³ mmol/L
N kN MN mN N.m Nm kN.m N·m kgf tf Pa hPa kPa MPa mbar bar psi atm mmHg mm[Hg] mmH2O mH2O kgf/cm2
kgf/cm² Pa.s mPa.s
°C °F K ℃ ℉ Cel [degF] degC degF ° deg rad °/s rad/s 1/min /min rpm r/min min-1 rev/min 1/s Hz kHz MHz GHz
m/s m/min m/h km/h mm/s mm/min m/s2 m/s² mm/s2 mm/s² g_n L/s L/min L/h m3/s m3/min m3/h m³/s m³/min m³/h Nm3/h
Nm³/h t/h kg/h kg/s kg/min g/min
V mV kV uV µV A mA kA uA µA W kW MW GW mW VA V.A kVA kV.A MVA MV.A var kvar Mvar VAr kVAr VAR kVAR
Wh W.h kWh kW.h MWh MW.h GWh varh var.h kvarh kvar.h VAh V.A.h kVAh kV.A.h A.h Ah mAh J kJ MJ GJ cal kcal
Ohm ohm Ω kΩ kOhm MΩ mΩ S mS uS µS S/m S/cm mS/cm uS/cm µS/cm F uF µF nF pF H mH uH T mT uT
lx lm cd dB dBm dB(A) pH [pH] NTU FTU %RH %rh %LEL rH Bq Sv uSv/h W/m2 W/m² kJ/kg kWh/t kgce tce
B kB MB GB bit bit/s kbit/s Mbit/s B/s kB/s MB/s ¥ ￥ CNY USD EUR 元 元/kWh
"""
UNITS: Final = frozenset(_UNITS.split())
"""As UCUM writes them, and as plants do."""

_DECIMAL: Final = frozenset({Fraction(1, 10), Fraction(1, 100)})
_POWERS: Final = frozenset(Fraction(1, 10**power) for power in range(1, 7))
_PRESSURE: Final = frozenset({"bar", "kPa", "hPa", "MPa", "mbar"})
_WIDTHS: Final = {"int8": 8, "int16": 16, "int32": 32, "uint8": 8, "uint16": 16, "uint32": 32, "sbyte": 8, "byte": 8}
_LOCAL: Final = (".local", ".lan", ".internal", ".home", ".localdomain", ".localhost", ".home.arpa", ".svc")


def advise(tag: Tag, interval: int, *, inherited: bool) -> Iterator[Finding]:
    """Give what is unwise about one tag; `inherited` says whether its deadband is the device's or the group's."""
    meant = unit_meant(tag.unit)
    if meant:
        yield "unit", f"the unit {tag.unit} is not a known one", f"did you mean {meant}?"
    span = tag.maximum - tag.minimum
    if math.isfinite(span) and 0 < span <= tag.deadband:
        whose = "the inherited deadband" if inherited else "the deadband"
        reason = f"{whose} of {tag.deadband:g} is not below the range of {span:g}: no change within it is reported"
        yield "deadband", reason, "give a smaller deadband, or mend min and max"
    low, high = _reach(tag)
    if tag.minimum <= tag.maximum and (tag.minimum > high or tag.maximum < low):
        reason = f"{tag.type} with this scale lies between {low:g} and {high:g}: every value would be out of range"
        yield ("min" if tag.minimum > high else "max"), reason, "compare scale, min and max with the device's manual"
    if 0 < tag.max_silence < interval:
        reason = "max_silence is shorter than the interval: every reading is reported, whatever the deadband"
        yield "max_silence", reason, "give a longer max_silence"
    rule = tag.writable
    if rule is not None and (
        (rule.maximum is not None and rule.maximum > tag.maximum)
        or (rule.minimum is not None and rule.minimum < tag.minimum)
    ):
        reason = f"values beyond the tag's own range of {tag.minimum:g} to {tag.maximum:g} may be written"
        yield "writable", reason, "give writable the limits of min and max, or narrower ones"


def is_float(tag: Tag) -> bool:
    """Whether the source has a number with a point."""
    return tag.type.lower() in ("float16", "float32", "float64", "float", "double")


def scaled_float(tag: Tag) -> Finding:
    """Say of a float that its scale is odd."""
    reason = f"{tag.type} is scaled by {float(tag.scale):g}, as registers without a decimal point are"
    return "scale", reason, "a float mostly comes in its unit: compare with the device's display, or leave scale out"


def is_device_habit(odd: int, floats: int) -> bool:
    """Whether a device's scaled floats are its way of giving them, as of some meters, rather than one tag's slip."""
    return odd >= 3 and 2 * odd >= floats


def smells(tag: Tag) -> bool:
    """Whether a factor looks like that of an integer register rather than a conversion of units."""
    if tag.scale in _DECIMAL:
        return not (tag.unit in _PRESSURE and tag.scale == Fraction(1, 100))  # hPa to bar is a conversion
    return not tag.unit and tag.scale in _POWERS


def _reach(tag: Tag) -> tuple[float, float]:
    """Give the least and the greatest value that the source's type can give; infinite where that is not known."""
    name = tag.type.lower()
    width = _WIDTHS.get(name)
    if width is None or tag.kind.value in ("text", "bool") or "[" in name:
        return -math.inf, math.inf
    signed = not name.startswith(("u", "byte"))
    ends = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    low, high = sorted(float(end * tag.scale + tag.offset) for end in ends)
    return low, high


@cache
def unit_meant(unit: str) -> str:
    """Give the known unit that a misspelt one resembles; nothing where it is known, or like none."""
    plain = unit.strip()
    if not plain or plain in UNITS or len(plain) < 2:
        return ""
    folded = {each.lower(): each for each in sorted(UNITS, reverse=True)}
    same = folded.get(plain.lower().replace(" ", ""))
    if same is not None:
        return same
    if len(plain) < 3 or any(sign in plain for sign in "/.·[{("):
        return ""
    close = difflib.get_close_matches(plain.lower(), [each for each in folded if len(each) > 1], 1, 0.75)
    return folded[close[0]] if close else ""


def in_the_clear(urls: Sequence[str], schemes: Sequence[str]) -> str:
    """Give the first host that is reached unencrypted at a public address; nothing where there is none.

    A name without a dot, a name of a local zone and a private address are in the plant; all else may be anywhere.
    """
    for url in urls:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme in schemes and host and _is_public(host):
            return host
    return ""


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return "." in host and not host.lower().endswith(_LOCAL)
