"""The few pages that the provider itself shows. Plain HTML: they must work when nothing else does."""

from __future__ import annotations

from html import escape

_STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem;color:#14213d}"
    "h1{font-size:1.5rem}button{font:inherit;padding:.6rem 1.4rem;border:0;border-radius:.3rem;background:#0b5cad;"
    "color:#fff}code{color:#555}@media(prefers-color-scheme:dark){body{background:#111827;color:#e5e7eb}}"
)
_TEXTS = {
    "en": {
        "error": "This log-in cannot go on",
        "client": "The service that sent you here is not known, or may not ask for log-ins any more.",
        "redirect": "The address that you would be sent back to is not one that this service has registered.",
        "request": "The service sent a request that cannot be read.",
        "secret": "The service put a secret into an address. It must be replaced, because others may have read it.",
        "pushed": "This log-in has expired or was used before.",
        "hint": "The service sent a token that was not made here.",
        "again": "Please go back to the service and try again. If it happens again, tell the service.",
        "unavailable": "Logging in is not possible here at the moment",
        "wait": "Please try again in a minute.",
        "ask": "Do you want to log out?",
        "all": "You will be logged out of every service that you logged in to in this browser.",
        "yes": "Log out",
        "out": "You are logged out",
    },
    "et": {
        "error": "Sisselogimist ei saa jätkata",
        "client": "Teenus, mis teid siia suunas, ei ole teada või ei tohi enam sisselogimist küsida.",
        "redirect": "Aadress, kuhu teid tagasi suunataks, ei ole selle teenuse registreeritud aadress.",
        "request": "Teenuse saadetud päringut ei saa lugeda.",
        "secret": "Teenus pani aadressi sisse saladuse. See tuleb välja vahetada, sest teised võisid seda lugeda.",
        "pushed": "See sisselogimine on aegunud või juba kasutatud.",
        "hint": "Teenuse saadetud tõend ei ole siin väljastatud.",
        "again": "Palun minge teenuse juurde tagasi ja proovige uuesti. Kui viga kordub, andke teenusele teada.",
        "unavailable": "Siin ei saa praegu sisse logida",
        "wait": "Palun proovige minuti pärast uuesti.",
        "ask": "Kas soovite välja logida?",
        "all": "Teid logitakse välja kõigist teenustest, kuhu te selles veebilehitsejas sisse logisite.",
        "yes": "Logi välja",
        "out": "Olete välja logitud",
    },
    "ar": {
        "error": "لا يمكن متابعة تسجيل الدخول",
        "client": "الخدمة التي أرسلتك إلى هنا غير معروفة، أو لم يعد مسموحًا لها بطلب تسجيل الدخول.",
        "redirect": "العنوان الذي ستُعاد إليه ليس من العناوين التي سجلتها هذه الخدمة.",
        "request": "أرسلت الخدمة طلبًا لا يمكن قراءته.",
        "secret": "وضعت الخدمة سرًّا في عنوان. يجب تغييره، فقد يكون آخرون قد قرأوه.",
        "pushed": "انتهت صلاحية تسجيل الدخول هذا، أو استُخدم من قبل.",
        "hint": "أرسلت الخدمة رمزًا لم يصدر من هنا.",
        "again": "يرجى العودة إلى الخدمة والمحاولة مرة أخرى. إذا تكرر ذلك فأخبر الخدمة.",
        "unavailable": "تسجيل الدخول غير ممكن هنا في الوقت الحالي",
        "wait": "يرجى المحاولة مرة أخرى بعد دقيقة.",
        "ask": "هل تريد تسجيل الخروج؟",
        "all": "سيتم تسجيل خروجك من جميع الخدمات التي سجلت الدخول إليها في هذا المتصفح.",
        "yes": "تسجيل الخروج",
        "out": "تم تسجيل خروجك",
    },
}
_RIGHT_TO_LEFT = frozenset({"ar"})


def language_of(languages: tuple[str, ...], asked: str) -> str:
    """The first of ``asked`` (``ui_locales``, or an Accept-Language without weights) that a page speaks."""
    spoken = [language for language in languages if language in _TEXTS] or ["en"]
    for piece in asked.replace(",", " ").split():
        tag = piece.partition(";")[0].partition("-")[0].lower()
        if tag in spoken:
            return tag
    return spoken[0]


def _page(language: str, title: str, body: str) -> str:
    direction = "rtl" if language in _RIGHT_TO_LEFT else "ltr"
    return (
        f'<!doctype html>\n<html lang="{language}" dir="{direction}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def refused(languages: tuple[str, ...], asked: str, why: str) -> str:
    """Why nobody is redirected; ``why`` as in ``Untrusted``. It holds nothing of the request."""
    language = language_of(languages, asked)
    text = _TEXTS[language]
    body = f"<p>{escape(text[why])}</p><p>{escape(text['again'])}</p><p><code>invalid_request: {escape(why)}</code></p>"
    return _page(language, text["error"], body)


def unavailable(languages: tuple[str, ...], asked: str) -> str:
    """This place does not log anybody in now."""
    language = language_of(languages, asked)
    text = _TEXTS[language]
    return _page(language, text["unavailable"], f"<p>{escape(text['wait'])}</p>")


def ask_logout(languages: tuple[str, ...], asked: str, action: str, kept: dict[str, str], proof: str) -> str:
    """Asks before logging out; the answer comes as a form with ``kept`` and ``confirm``."""
    language = language_of(languages, asked)
    text = _TEXTS[language]
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in {**kept, "confirm": proof}.items()
    )
    form = f'<form method="post" action="{escape(action)}">{fields}<button>{escape(text["yes"])}</button></form>'
    return _page(language, text["ask"], f"<p>{escape(text['all'])}</p>{form}")


def logged_out(languages: tuple[str, ...], asked: str) -> str:
    language = language_of(languages, asked)
    return _page(language, _TEXTS[language]["out"], "")
