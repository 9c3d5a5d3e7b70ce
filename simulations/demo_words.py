"""Vocabulary of the demo shop's catalogue, all of it written for this project."""

from __future__ import annotations

from dataclasses import dataclass

SEASONS = ("spring", "summer", "autumn", "winter", "all year")
BANDS = ("budget", "middle", "premium")
BAND_FACTOR = {"budget": 0.62, "middle": 1.0, "premium": 1.75}


@dataclass(frozen=True)
class Garment:
    """A clothing class: its name in a title, base price, weight in grams, likely styles and seasons (weights)."""

    noun: str
    price: float
    grams: int
    styles: dict[str, float]
    seasons: dict[str, float]


GARMENTS = {
    "Blazer": Garment("blazer", 79, 620, {"smart": 6, "casual": 3}, {"autumn": 3, "spring": 3, "all year": 2}),
    "Blouse": Garment("blouse", 34, 180, {"romantic": 5, "smart": 4}, {"spring": 3, "summer": 3, "all year": 2}),
    "Body": Garment("romper", 16, 120, {"playful": 6, "casual": 2}, {"all year": 4, "summer": 2, "winter": 2}),
    "Dress": Garment("dress", 49, 320, {"romantic": 5, "smart": 2, "playful": 2}, {"summer": 5, "spring": 3}),
    "Hat": Garment("hat", 19, 110, {"sporty": 3, "casual": 3, "playful": 2}, {"summer": 3, "winter": 3}),
    "Hoodie": Garment("hoodie", 42, 560, {"sporty": 5, "casual": 4}, {"autumn": 4, "winter": 3}),
    "Longsleeve": Garment("long-sleeved top", 27, 260, {"casual": 5, "sporty": 3}, {"autumn": 4, "winter": 2}),
    "Outwear": Garment("jacket", 89, 900, {"casual": 4, "sporty": 3, "smart": 2}, {"winter": 5, "autumn": 4}),
    "Pants": Garment("trousers", 45, 520, {"casual": 5, "smart": 3, "sporty": 2}, {"all year": 5, "autumn": 2}),
    "Polo": Garment("polo shirt", 29, 230, {"smart": 4, "sporty": 4}, {"summer": 4, "spring": 3}),
    "Shirt": Garment("shirt", 35, 250, {"smart": 6, "casual": 3}, {"all year": 5, "spring": 2}),
    "Shoes": Garment(
        "shoes", 59, 780, {"smart": 3, "sporty": 3, "casual": 3, "playful": 1}, {"all year": 5, "summer": 2}
    ),
    "Shorts": Garment("shorts", 24, 240, {"sporty": 5, "casual": 4}, {"summer": 8, "spring": 1}),
    "Skirt": Garment("skirt", 31, 280, {"romantic": 5, "smart": 2, "casual": 2}, {"summer": 4, "spring": 4}),
    "T-Shirt": Garment("T-shirt", 17, 170, {"casual": 5, "sporty": 4, "playful": 2}, {"summer": 5, "all year": 3}),
    "Top": Garment("top", 19, 130, {"romantic": 3, "casual": 3, "playful": 2}, {"summer": 6, "spring": 2}),
    "Undershirt": Garment("sleeveless vest", 13, 120, {"casual": 4, "sporty": 4}, {"all year": 4, "summer": 3}),
}

CLOTHING_CATEGORY = {
    "Blazer": "Blazers",
    "Blouse": "Blouses",
    "Body": "Rompers",
    "Dress": "Dresses",
    "Hat": "Hats",
    "Hoodie": "Hoodies",
    "Longsleeve": "Long sleeves",
    "Outwear": "Jackets",
    "Pants": "Trousers",
    "Polo": "Polo shirts",
    "Shirt": "Shirts",
    "Shoes": "Shoes",
    "Shorts": "Shorts",
    "Skirt": "Skirts",
    "T-Shirt": "T-shirts",
    "Top": "Tops",
    "Undershirt": "Vests",
}

# grocery group -> (category, base price, grams of the pack)
GROCERIES = {
    "Apple": ("Apples and pears", 2.4, 1000),
    "Pear": ("Apples and pears", 2.6, 1000),
    "Avocado": ("Tropical fruit", 1.9, 250),
    "Banana": ("Tropical fruit", 1.8, 1000),
    "Kiwi": ("Tropical fruit", 2.2, 500),
    "Mango": ("Tropical fruit", 2.5, 400),
    "Papaya": ("Tropical fruit", 3.4, 700),
    "Passion-Fruit": ("Tropical fruit", 2.9, 200),
    "Pineapple": ("Tropical fruit", 3.2, 1300),
    "Pomegranate": ("Tropical fruit", 2.7, 350),
    "Lemon": ("Citrus fruit", 1.6, 500),
    "Lime": ("Citrus fruit", 1.7, 400),
    "Orange": ("Citrus fruit", 2.3, 1000),
    "Red-Grapefruit": ("Citrus fruit", 2.4, 800),
    "Satsumas": ("Citrus fruit", 2.5, 1000),
    "Melon": ("Melons", 3.6, 1500),
    "Nectarine": ("Stone fruit", 2.9, 750),
    "Peach": ("Stone fruit", 2.9, 750),
    "Plum": ("Stone fruit", 2.7, 600),
    "Juice": ("Juices", 2.8, 1000),
    "Milk": ("Milk", 1.3, 1000),
    "Oatghurt": ("Plant-based", 2.6, 800),
    "Oat-Milk": ("Plant-based", 2.1, 1000),
    "Soyghurt": ("Plant-based", 2.5, 500),
    "Soy-Milk": ("Plant-based", 2.0, 1000),
    "Sour-Cream": ("Yoghurt and cream", 1.5, 300),
    "Sour-Milk": ("Yoghurt and cream", 1.6, 1000),
    "Yoghurt": ("Yoghurt and cream", 2.2, 1000),
    "Asparagus": ("Green vegetables", 3.5, 400),
    "Cabbage": ("Green vegetables", 1.6, 1200),
    "Cucumber": ("Green vegetables", 1.1, 400),
    "Zucchini": ("Green vegetables", 1.7, 500),
    "Leek": ("Green vegetables", 1.8, 500),
    "Aubergine": ("Peppers and aubergines", 1.9, 350),
    "Pepper": ("Peppers and aubergines", 1.6, 300),
    "Carrots": ("Roots and bulbs", 1.2, 1000),
    "Garlic": ("Roots and bulbs", 1.0, 150),
    "Ginger": ("Roots and bulbs", 1.5, 200),
    "Onion": ("Roots and bulbs", 1.1, 1000),
    "Potato": ("Roots and bulbs", 1.9, 2000),
    "Red-Beet": ("Roots and bulbs", 1.4, 750),
    "Mushroom": ("Green vegetables", 2.2, 250),
    "Tomato": ("Tomatoes", 2.4, 500),
}

# Makers' names and Swedish-English terms of the source's class names that a title leaves out or says differently.
DROPPED_WORDS = {"Arla", "Alpro", "Bravo", "Garant", "God", "Oatly", "Tropicana", "Valio", "Yoggi", "Regular", "Shelf"}
SAID_DIFFERENTLY = {
    "Ecological": "organic",
    "Solid": "firm",
    "Oatghurt": "oat yoghurt",
    "Soyghurt": "soya yoghurt",
    "Soy": "soya",
    "Red-Grapefruit": "red grapefruit",
}

CLOTHING_STORES = {
    204: "Linden Row",
    181: "Harbour Street",
    48: "The Folded Shirt",
    260: "Second Bloom",
    310: "Old Mill Outfitters",
}
OTHER_CLOTHING_STORES = ("Corner Wardrobe", "Kestrel and Daughters", "Paper Lantern")
FRESH_STORES = ("Green Basket", "Market Hall")
DAIRY_STORES = ("Copper Churn", "Market Hall")

MODEL_NAMES = (
    "Alder", "Aspen", "Birch", "Briar", "Cedar", "Clover", "Cove", "Dale", "Dune", "Elm", "Ember", "Fable",
    "Fern", "Field", "Finch", "Flint", "Glade", "Harbor", "Haven", "Hazel", "Heath", "Heron", "Iris", "Isle",
    "Ivy", "Juniper", "Lark", "Laurel", "Linden", "Loom", "Lunar", "Maple", "Marlow", "Meadow", "Mira", "Moss",
    "North", "Oak", "Olive", "Onyx", "Orchard", "Otter", "Pebble", "Pine", "Plover", "Poppy", "Quill", "Reed",
    "Ridge", "River", "Robin", "Rowan", "Sable", "Sage", "Sierra", "Sky", "Slate", "Sorrel", "Sparrow", "Stone",
    "Swift", "Tansy", "Thistle", "Tide", "Vale", "Willow", "Wren", "Yarrow",
)  # fmt: skip

STYLE_SENTENCE = {
    "smart": (
        "Sharp enough for the office, easy enough for dinner.",
        "Clean lines for days that begin with a meeting.",
        "Tailored and understated, made to be worn with confidence.",
    ),
    "casual": (
        "An easy piece for ordinary days.",
        "Relaxed, reliable, and happy with jeans.",
        "Made for weekends and slow mornings.",
    ),
    "sporty": (
        "Light on the move and quick to dry.",
        "Ready for the gym, the park, or the last sprint to the bus.",
        "Cut for movement, from warm-up to walk home.",
    ),
    "romantic": (
        "Soft drape and a gentle silhouette for warm evenings.",
        "A delicate piece with a little movement in every step.",
        "Flowing and feminine, with details worth a second look.",
    ),
    "playful": (
        "Cheerful, bold, and hard to be serious in.",
        "A bright idea for birthdays, playgrounds, and puddles.",
        "Full of fun, and tough enough for it.",
    ),
    "organic": (
        "Certified organic and grown with care for the soil.",
        "Organic, with nothing added that does not belong.",
    ),
    "everyday": (
        "A kitchen staple that is always in the basket.",
        "Dependable quality for daily cooking.",
        "The one you reach for every week.",
    ),
    "indulgent": (
        "A small treat, picked at its sweetest.",
        "Rich in flavour, for when dessert can be simple.",
    ),
    "plant-based": (
        "Made from plants, good in coffee and on muesli.",
        "Free from dairy and full of character.",
    ),
}
SEASON_SENTENCE = {
    "spring": ("Best when the first warm days arrive.", "Layers well in spring."),
    "summer": ("Cool in the heat of summer.", "Packs small for the summer trip."),
    "autumn": ("A good companion for windy autumn days.", "Warm tones, autumn weight."),
    "winter": ("Keeps the cold out all winter.", "Thick enough for frosty mornings."),
    "all year": ("Works in every month.", "Wear it all year round."),
}
BAND_SENTENCE = {
    "budget": ("Friendly to the purse.", "Simple make, honest price."),
    "middle": ("Good value that lasts.", "Well made at a fair price."),
    "premium": ("Finished by hand from the finest material.", "Premium quality you notice at once."),
}
GROCERY_BAND_SENTENCE = {
    "budget": ("Our lowest price.", "Great for big families and big pots."),
    "middle": ("A fair price for good quality.", "Picked for a balanced price."),
    "premium": ("First-class selection.", "Hand-selected, premium grade."),
}
KIDS_SENTENCE = ("In children's sizes.", "For children, with room to grow.", "Made for small explorers.")
PLURAL = {"trousers", "shoes", "shorts"}
GARMENT_OPENING = (
    "{article} {colour} {noun} in a {style} cut.",
    "{this} {noun} {comes} in {colour}.",
    "{colour_cap} {noun} with a {style} feel.",
    "Our {style} {noun}, this time in {colour}.",
    "The colour is {colour}, the mood is {style}.",
)
GROCERY_OPENING = (
    "{name_cap} from our {category} shelf.",
    "Fresh {name}, delivered the same day.",
    "{name_cap}, {grams} g.",
    "A pack of {name} for the {season_phrase}.",
)
