"""The points of Annex IV of Regulation (EU) 2024/1689 (the AI Act), and what a study has to say to each.

The words are those of the Official Journal (OJ L, 2024/1689, 12.7.2024), shortened. Annex IV is about the technical
documentation of a high-risk AI system (Article 11(1)). A study documents how a model's learning rates were found: a
part of point 2, some of 1, 3, 4 and 6. The rest is for whoever provides the system.
"""

from __future__ import annotations

TITLES = {
    "1": "General description of the AI system",
    "2": "Detailed description of the elements of the AI system and of the process for its development",
    "2(a)": "Methods and steps performed for the development",
    "2(b)": "Design specifications: key design choices, what is optimised for, relevance of the parameters",
    "2(c)": "System architecture and computational resources",
    "2(d)": "Data requirements: training data sets, provenance, characteristics",
    "2(g)": "Validation and testing procedures, metrics, test logs",
    "3": "Monitoring, functioning and control: capabilities and limitations in performance",
    "4": "Appropriateness of the performance metrics",
    "6": "Relevant changes through the lifecycle",
}
"""Points that the card answers, in part or whole."""

LEFT = {
    "1(a)": ("intended purpose, name of the provider, version of the system and its relation to earlier ones", "yours"),
    "1(b)": ("interaction with hardware, software or AI systems that are not part of the system", "yours"),
    "1(c)": ("versions of relevant software or firmware, requirements of updates", "versions of the study only: see 1"),
    "1(d)": ("forms in which the system is placed on the market or put into service", "no part of a study: yours"),
    "1(e)": ("hardware on which the system is intended to run", "yours: the card names what the study ran on"),
    "1(f)": (
        "photographs or illustrations of products that the system is a component of",
        "no part of a study: yours, if the system is in a product",
    ),
    "1(g), (h)": ("user interface for the deployer; instructions for use", "no part of a study: yours"),
    "2(a)": ("pre-trained systems or tools of third parties, and how they were used", "yours, besides what 2(a) lists"),
    "2(d)": ("how data was obtained and selected, labelling, cleaning", "yours: the card has source, size and hash"),
    "2(e)": ("human oversight measures (Article 14)", "yours"),
    "2(f)": ("pre-determined changes to the system and its performance", "yours, where applicable"),
    "2(g)": (
        "robustness, discriminatory impacts; reports dated and signed by the responsible persons",
        "sign-offs are in section 6; the rest is yours",
    ),
    "2(h)": ("cybersecurity measures", "yours; the trail's own protection is in section 6"),
    "3": ("accuracy for persons or groups, unintended outcomes, risks, oversight, input data", "yours"),
    "5": ("risk management system (Article 9)", "yours"),
    "7": ("harmonised standards applied, or the solutions adopted instead", "no part of a study: yours"),
    "8": ("EU declaration of conformity (Article 47)", "no part of a study: yours"),
    "9": ("evaluation of performance in the post-market phase (Article 72)", "no part of a study: yours"),
}
"""Points, or parts of points, that a study says nothing about: the words, and whose they are."""

APPLIES = (
    "Headings follow Annex IV of Regulation (EU) 2024/1689, the technical documentation of high-risk AI systems. "
    "Whether a system is one is not for this card to say, and a search for learning rates does not make it one. The "
    "card is no assessment of conformity. Providers of general-purpose AI models look at Annex XI, whose points on "
    "the training process, data and computation meet 2(a) to 2(d) here."
)
