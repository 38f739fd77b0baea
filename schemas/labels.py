"""Label sets, in the order in which heads number them."""

from typing import Literal

Stream = Literal["news", "chat", "behavior"]
STREAMS: tuple[Stream, ...] = ("news", "chat", "behavior")

Decision = Literal["label", "unsure", "none", "unsupported"]

SENTIMENTS = ("negative", "neutral", "positive")

TOPICS = (
    "Analyst Update",
    "Fed | Central Banks",
    "Company | Product News",
    "Treasuries | Corporate Debt",
    "Dividend",
    "Earnings",
    "Energy | Oil",
    "Financials",
    "Currencies",
    "General News | Opinion",
    "Gold | Metals | Materials",
    "IPO",
    "Legal | Regulation",
    "M&A | Investments",
    "Macro",
    "Markets",
    "Politics",
    "Personnel Change",
    "Stock Commentary",
    "Stock Movement",
)
