"""The vocabulary of the demo's state: prose, titles, names of people, places and companies.

Nothing here is real data. Every place and company is invented, and personal codes start with a digit that no
living person's code has. All choices come from ``seeded``, so the same seed always tells the same story.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from exclave.errors import UsageError

KNOWN_PHRASE = "the record of the people outlives the loss of its house"
"""Stands in every act and in many rows of the databases, in ASCII: whoever finds it at a host has found plaintext."""


def seeded(seed: int, what: str) -> random.Random:
    """The random numbers of one part of the data; each part has its own, so one can be made again alone."""
    return random.Random(f"{seed}:{what}")  # noqa: S311  invented data, no secret


def check_scale(scale: int, limit: int) -> int:
    """``scale`` itself, if it lies from 1 to ``limit``; ``UsageError`` otherwise."""
    if not 1 <= scale <= limit:
        raise UsageError(f"scale must be from 1 to {limit}, not {scale}")
    return scale


ET_SUBJECTS = (
    "Amet", "Ministeerium", "Vallavalitsus", "Registripidaja", "Taotleja", "Maaomanik", "Ringkonnakohus",
    "Järelevalveasutus", "Notar", "Hindamiskomisjon", "Kinnistusosakond", "Hoone valdaja", "Võlausaldaja", "Haldur",
    "Keskkonnainspektor", "Kohtutäitur", "Raamatukogu nõukogu", "Sadama ülem", "Ühistu juhatus", "Vastutav töötleja",
)  # fmt: skip
ET_VERBS = (
    "esitab taotluse", "vaatab läbi kaebuse", "kannab andmed registrisse", "teeb põhjendatud otsuse",
    "avaldab teate Riigi Teatajas", "säilitab dokumendid", "väljastab loa", "peatab menetluse", "kinnitab eelarve",
    "teavitab puudutatud isikut", "kontrollib andmete õigsust", "korraldab avaliku arutelu", "tasub riigilõivu",
    "määrab tähtaja puuduste kõrvaldamiseks", "annab arvamuse eelnõu kohta", "edastab ärakirja arhiivile",
    "tunnistab kande kehtetuks", "esitab aruande Riigikogule",
)  # fmt: skip
ET_TIMES = (
    "viivitamata", "ühe kuu jooksul", "kümne tööpäeva jooksul", "hiljemalt aasta lõpuks", "üks kord kvartalis",
    "kolme päeva jooksul", "enne menetluse lõppu", "pärast asjaosaliste ärakuulamist", "kirjalikult",
    "neljateistkümne päeva jooksul", "elektrooniliselt", "iga aasta 1. märtsiks",
)  # fmt: skip
ET_CONDITIONS = (
    "kui seaduses ei ole sätestatud teisiti", "kui selleks on põhjendatud vajadus",
    "välja arvatud käesolevas paragrahvis nimetatud juhul", "kui puudutatud isik on andnud nõusoleku",
    "arvestades avalikku huvi ja üksikisiku õigusi", "kui andmed on puudulikud või ebaõiged",
    "sõltumata sellest, millises riigis andmeid hoitakse", "järgides heade kommete ja hea usu põhimõtet",
    "kui see ei kahjusta kolmanda isiku õigusi", "eriolukorra ajal ka väljaspool riigi territooriumi",
    "kui eelmisest kandest on möödunud vähemalt viis aastat", "tagades isikuandmete kaitse",
)  # fmt: skip
EN_SUBJECTS = (
    "The Authority", "The registrar", "Any owner of a parcel", "The competent court", "The supervisory board",
    "A person who holds a licence", "The municipal council", "The notary", "The keeper of the archive",
    "The creditor", "An applicant", "The Minister", "The harbour master", "A processor of personal data",
)  # fmt: skip
EN_VERBS = (
    "shall submit an application", "shall keep a complete copy of the record", "may suspend the proceedings",
    "shall notify each person concerned", "shall publish the decision in the Gazette", "may grant an exemption",
    "shall verify the accuracy of the data", "shall enter the change in the register", "may demand an explanation",
    "shall retain the supporting documents", "shall give reasons for the refusal", "may delegate the task",
    "shall report to Parliament", "shall return the deposit with interest",
)  # fmt: skip
EN_TIMES = (
    "without delay", "within ten working days", "before the end of the calendar year", "in writing",
    "not later than on the third day", "once in every quarter", "after hearing the parties", "by electronic means",
    "within one month of the notice", "at the expense of the applicant",
)  # fmt: skip
EN_CONDITIONS = (
    "unless otherwise provided by law", "where the public interest so requires", "if the data are found incomplete",
    "irrespective of the country in which the data are kept", "provided that no right of a third person is impaired",
    "except in the cases listed in this section", "with due regard to the rights of the individual",
    "during an emergency also outside the territory of the State", "subject to review by the administrative court",
    "if at least five years have passed since the last entry",
)  # fmt: skip
ET_HEADINGS = (
    "Reguleerimisala", "Mõisted", "Registri pidamine", "Andmete koosseis", "Juurdepääs andmetele", "Järelevalve",
    "Riigilõiv", "Vaidluste lahendamine", "Säilitamine", "Andmete varukoopia", "Rakendamine", "Jõustumine",
    "Kannete tegemine", "Tähtajad", "Volitusnorm", "Vastutus",
)  # fmt: skip
EN_HEADINGS = (
    "Scope", "Definitions", "Keeping of the register", "Composition of data", "Access to data", "Supervision",
    "State fee", "Settlement of disputes", "Preservation", "Copies kept abroad", "Implementation", "Entry into force",
    "Entries", "Time limits", "Delegation", "Liability",
)  # fmt: skip
TOPICS = (
    ("maakatastri", "Land Cadastre"), ("veeteede", "Waterways"), ("ühistranspordi", "Public Transport"),
    ("rahvaraamatukogu", "Public Libraries"), ("kalapüügi", "Fishing"), ("metsa", "Forest"), ("arhiivi", "Archives"),
    ("jäätme", "Waste"), ("äriregistri", "Commercial Register"), ("kinnistusraamatu", "Land Register"),
    ("rahvastikuregistri", "Population Register"), ("riigilõivu", "State Fees"), ("hädaolukorra", "Emergency"),
    ("kõrghariduse", "Higher Education"), ("töölepingu", "Employment Contracts"), ("mesinduse", "Beekeeping"),
    ("tuletõrje", "Fire Service"), ("muinsuskaitse", "Heritage Conservation"), ("päästeteenistuse", "Rescue Service"),
    ("ravimi", "Medicinal Products"), ("sadama", "Ports"), ("mõõte", "Measurement"),
    ("küberturvalisuse", "Cybersecurity"), ("andmesaatkonna", "Data Embassy"),
    ("põllumajandusloenduse", "Agricultural Census"), ("jäätee", "Ice Road"),
)  # fmt: skip

TRANSLATIONS = (
    ("ru", "Перевод на русский.txt", "Соглашение о взаимной правовой помощи и хранении реестров",
     "Стороны обязуются хранить реестры друг друга в целости и возвращать их по первому требованию. "),
    ("ar", "ترجمة عربية.txt", "اتفاقية بشأن حفظ السجلات العامة خارج الإقليم",
     "تتعهد الأطراف بحفظ السجلات العامة سليمة وبإعادتها عند أول طلب. "),
    ("he", "תרגום לעברית.txt", "הסכם בדבר שמירת מרשמים ציבוריים מחוץ לשטח המדינה",
     "הצדדים מתחייבים לשמור על המרשמים בשלמותם ולהשיבם לפי דרישה ראשונה. "),
    ("zh", "中文譯本.txt", "關於在境外保存公共登記冊的協定", "締約各方承諾完整保存登記冊，並在首次要求時予以歸還。"),
    ("ja", "日本語訳.txt", "公的登録簿の国外保管に関する協定",
     "締約国は登録簿を完全な状態で保管し、最初の請求により返還する。"),
)  # fmt: skip
"""Language, file name, title and a sentence in several scripts, for acts that are treaties."""

GIVEN_NAMES = (
    "Aino", "Ülle", "Õnne", "Jüri", "Märt", "Liis", "Kadri", "Tõnu", "Peeter", "Maarja", "Väino", "Säde", "Ants",
    "Helje", "Rein", "Epp", "Kaarel", "Piret", "Urmas", "Heli", "Tiiu", "Ott", "Mall", "Sirje", "Jaan", "Külli",
    "Toomas", "Viiu", "Andres", "Leelo", "Štefan", "Žanna", "Łucja", "Zoë", "Søren", "Åse", "Núria", "François",
    "Мария", "Иван", "Ольга", "Сергей", "Ελένη", "יעל", "سلمى", "美玲",
)  # fmt: skip
FAMILY_NAMES = (
    "Kask", "Tamm", "Mägi", "Saar", "Põld", "Rebane", "Kõiv", "Lõhmus", "Järv", "Ööbik", "Sõrmus", "Võsa", "Künnap",
    "Pärn", "Teder", "Hunt", "Karu", "Laas", "Mänd", "Nõmm", "Org", "Paju", "Raud", "Sepp", "Toom", "Uibo", "Vaher",
    "Õunapuu", "Älvik", "Üprus", "Šmidt", "Žukov", "Ozoliņš", "Kalniņa", "Bērziņš", "Žukauskas", "Dvořák", "Nuñez",
    "Müller", "Ångström", "D'Arcy", "O'Brien", "Ковалёва", "Лебедев", "Παππάς", "כהן", "حداد", "陳",
)  # fmt: skip
_STEMS = ("Kase", "Tamme", "Järve", "Mere", "Põhja", "Luite", "Sõnajala", "Kaljo", "Ööbiku", "Hõbe")
_ENDINGS = ("vere", "küla", "nõmme", "saare")
STREETS = (
    "Pikk", "Lai", "Kuke", "Mäe", "Sadama", "Veski", "Kooli", "Õpetaja", "Kiriku", "Jõe", "Uus", "Vana", "Lepa",
    "Kalda", "Kivi", "Rannavärava", "Tähe", "Põllu", "Heina", "Sõjakooli",
)  # fmt: skip
COMPANY_STEMS = (
    "Põhjatäht", "Meretuul", "Kivisild", "Ööbik", "Sõnajalg", "Rukkilill", "Kuldnokk", "Jõgeva Vana", "Lumehelves",
    "Tõrvik", "Baltika Järv", "Hõbepaju", "Vikerkaar", "Koit ja Hämarik", "Laevameister", "Rannakivi", "Uus Ilm",
)  # fmt: skip
COMPANY_FIELDS = (
    "Ehitus", "Kaubandus", "Logistika", "Tarkvara", "Puit", "Kalandus", "Kirjastus", "Meierei", "Energia", "Haldus",
    "Konsult", "Trükikoda", "Aiand", "Metall",
)  # fmt: skip
COMPANY_FORMS = ("OÜ", "OÜ", "OÜ", "OÜ", "AS", "MTÜ", "TÜ", "SA")
CREDITORS = ("Põhjala Pank AS", "Rannariigi Hoiupank", "Ühisliisingu AS", "Maakrediit AS", "Riigi Tugifond SA")


def municipalities() -> tuple[tuple[str, str], ...]:
    """The 40 municipalities as (code of five digits, name); the first is 78401."""
    names = [f"{stem}{ending} vald" for stem in _STEMS for ending in _ENDINGS]
    return tuple((f"{78401 + 13 * index:05d}", name) for index, name in enumerate(names))


@dataclass(frozen=True, slots=True)
class Prose:
    """Sentences of one language, made once and then drawn from, so that tens of megabytes take a second."""

    headings: tuple[str, ...]
    sentences: tuple[str, ...]

    def section(self, rng: random.Random, number: int) -> str:
        """One section of an act: a heading and two to seven numbered clauses, about 900 bytes."""
        clauses = [
            f"({clause}) {' '.join(rng.choices(self.sentences, k=rng.randint(1, 2)))}"
            for clause in range(1, rng.randint(3, 8))
        ]
        return f"§ {number}. {rng.choice(self.headings)}\n" + "\n".join(clauses)


def estonian(seed: int) -> Prose:
    """Estonian legal prose."""
    return Prose(ET_HEADINGS, _sentences(seed, "et", (ET_SUBJECTS, ET_VERBS, ET_TIMES, ET_CONDITIONS)))


def english(seed: int) -> Prose:
    """English legal prose."""
    return Prose(EN_HEADINGS, _sentences(seed, "en", (EN_SUBJECTS, EN_VERBS, EN_TIMES, EN_CONDITIONS)))


def _sentences(seed: int, language: str, lists: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """4,000 sentences: subject, predicate, time, condition."""
    pick = seeded(seed, f"words:{language}").choice
    subjects, verbs, times, conditions = lists
    return tuple(f"{pick(subjects)} {pick(verbs)} {pick(times)}, {pick(conditions)}." for _ in range(4000))
