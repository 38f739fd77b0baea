"""The sentences of `models.behaviour`, written for it: none comes from a data set."""

COMPANIES = ("Apple", "Nokia", "Siemens", "Boeing", "Toyota", "Pfizer", "Volkswagen", "Nestle")

# {c} is a company. What differs is one verb, and with it the direction.
DIRECTIONS = (
    ("{c} raises its outlook for the year", "{c} cuts its outlook for the year"),
    ("{c} shares rise 5 %", "{c} shares fall 5 %"),
    ("{c} beats profit estimates", "{c} misses profit estimates"),
    ("Analysts upgrade {c}", "Analysts downgrade {c}"),
    ("{c} sales jump in the third quarter", "{c} sales slump in the third quarter"),
    ("{c} wins a large contract", "{c} loses a large contract"),
    ("{c} increases its dividend", "{c} suspends its dividend"),
    ("{c} stock soars after results", "{c} stock plunges after results"),
)

NOT_NEGATIVE = (
    "{c} does not cut its outlook",
    "{c} will not cut jobs this year",
    "{c} denies that sales are falling",
    "{c} has not lost the contract, its chief says",
    "No profit warning from {c} after all",
)
NOT_POSITIVE = (
    "{c} does not raise its outlook",
    "{c} will not increase its dividend",
    "{c} fails to beat estimates",
    "{c} has not won the contract, its chief says",
    "No recovery in sight for {c}",
)

BETTER_THAN_FEARED = (
    "{c} profit fell less than expected",
    "{c} reports a narrower loss than feared",
    "{c} sales decline is smaller than analysts had feared",
    "{c} cuts fewer jobs than feared",
)
WORSE_THAN_HOPED = (
    "{c} profit rose less than expected",
    "{c} reports a wider loss than feared",
    "{c} growth is slower than analysts had hoped",
    "{c} sales gain falls short of forecasts",
)

# {a} fares well, {b} badly.
COMPARISONS = (
    "{a} rises as {b} sinks",
    "{b} falls while {a} gains",
    "{a} beats estimates, {b} misses them",
    "{b} cuts its outlook, but {a} raises its own",
    "{a} wins the contract that {b} loses",
    "Analysts upgrade {a} and downgrade {b}",
)

NEUTRAL = (
    "{c} will publish its quarterly results on Thursday",
    "{c} to hold its annual meeting in May",
    "{c} to present at a conference in London",
    "{c} has its head office in a new building",
    "The chief executive of {c} will speak at noon",
)

TICKERS = ("$AAPL", "$NOK $TSLA", "AAPL MSFT GOOG", "$BA $PFE $TM $VWAGY", "#AAPL", "NYSE: BA")
LINKS = (
    "https://t.co/a1B2c3",
    "http://example.com/news/2024/05/31",
    "www.example.com",
    "https://t.co/x https://t.co/y",
)
NUMBERS = ("42", "1,234.56 7.8 %", "2024 2023 2022", "3.5 % 10 000 -0.2", "0")
EMPTY = ("", " ", "\n\t", "...", "?!")

# Two ways of asking for the same intent of Banking77, and that with typing errors.
INTENTS = (
    (
        "card_arrival",
        "When will my new card arrive?",
        "My card has not come in the mail yet",
        "Wen will my new crad arrive?",
    ),
    (
        "card_arrival",
        "I am still waiting for my card",
        "How do I track the card you sent me?",
        "I am stil waitng for my card",
    ),
    (
        "card_linking",
        "How do I link my card to the app?",
        "I want to add my card back to the app",
        "How do I lnik my card to the ap?",
    ),
    (
        "exchange_rate",
        "What is your exchange rate?",
        "Which rate do you use for currencies?",
        "What is yuor exchange rte?",
    ),
    (
        "atm_support",
        "Which cash machines take my card?",
        "At what ATMs can I use my card?",
        "Which cash machnes take my crad?",
    ),
    (
        "lost_or_stolen_card",
        "My card was stolen",
        "I have lost my card",
        "My card was stolne",
    ),
    (
        "change_pin",
        "How do I change my PIN?",
        "I want a different PIN",
        "How do I chnage my PIN?",
    ),
    (
        "terminate_account",
        "I want to close my account",
        "Please delete my account",
        "I wnat to close my acount",
    ),
    (
        "request_refund",
        "I would like a refund for what I bought",
        "How do I get my money back for an order?",
        "I woud like a refnd for what I bought",
    ),
    (
        "age_limit",
        "How old must I be to open an account?",
        "Can my child have an account?",
        "How old must I be to opn an acount?",
    ),
    (
        "card_swallowed",
        "The machine swallowed my card",
        "The ATM kept my card",
        "The machine swalowed my card",
    ),
    (
        "passcode_forgotten",
        "I forgot my passcode",
        "I do not remember my passcode",
        "I forgto my passcode",
    ),
    (
        "top_up_failed",
        "My top up failed",
        "My top up did not go through",
        "My top up faild",
    ),
    (
        "card_not_working",
        "My card does not work",
        "Something is wrong with my card, it fails everywhere",
        "My card does not wrok",
    ),
)

ELSEWHERE = (
    "What is the capital of France?",
    "Tell me a joke about penguins",
    "How long do I boil an egg?",
    "Will it rain in Oslo tomorrow?",
    "Who won the football match last night?",
    "Play some jazz in the kitchen",
    "Which film should I watch tonight?",
    "Translate good morning into Spanish",
    "Why is the sky blue?",
    "Set an alarm for seven",
    "How many legs does a spider have?",
    "Recommend a restaurant near the station",
)
