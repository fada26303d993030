"""The words of fable's stories, one tuple for each kind of word.

Pitfall: the order of a list decides the bytes of every story; change a list only together with FABLE_VERSION.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """Split a list of words; `_` becomes a space within a word."""
    return tuple(word.replace("_", " ") for word in text.split())


GIRLS = words(
    """Ada Amira Anouk Astrid Beatrix Bella Brisa Calla Carmen Cleo Cora Dalia Daphne Delia Dora Edda Elina Elsie Esme Fatima
    Fern Fiona Flora Freya Gemma Gilda Greta Hanna Hazel Heidi Ida Imani Ines Iris Isla Ivy Jade Jolie Juna Kaya Keiko Kira
    Lena Leila Liv Lotte Lucia Luna Mabel Maren Marta Maya Mina Mira Nadia Nia Nora Odette Olive Opal Paloma Pearl Petra
    Pippa Priya Ramona Rhea Rosa Ruth Sabine Saskia Selma Sunniva Suki Tamsin Tess Thea Tilda Una Vera Viola Wanda Willa
    Xenia Yara Yuki Zadie Zara Zelda"""
)
BOYS = words(
    """Aaron Abel Adil Alvin Anders Anton Arlo Arun Axel Basil Benno Bjorn Boris Bruno Caleb Cedric Cyrus Dario Demir Diego
    Eamon Edgar Eli Emil Enzo Ezra Felix Finn Fritz Gideon Gus Hamid Hans Henrik Hugo Ibrahim Igor Ilya Ivan Jasper Joel Jonas
    Jules Kai Karim Kenji Knut Lars Leif Leo Linus Luca Magnus Malik Marco Mateo Milo Moses Nico Nils Noah Oskar Otis Otto
    Pablo Percy Pim Quentin Rafi Ravi Remy Rocco Rufus Samir Silas Simon Soren Stefan Tariq Theo Tobias Udo Viktor Walter
    Xavier Yusuf Zeno Ziggy"""
)
ANIMALS = words(
    """badger bear beaver bison bat camel cat chick chipmunk cow crab crane cricket crow deer dog dolphin donkey dove dragonfly
    duck duckling eagle elephant falcon ferret finch firefly fox frog gecko giraffe goat goose gosling hamster hare hawk
    hedgehog hen heron hippo horse kangaroo kitten koala ladybug lamb lark lion lizard llama lynx magpie mole monkey moose
    moth mouse newt octopus otter owl panda parrot peacock pelican penguin pig pigeon pony porcupine puffin puppy rabbit
    raccoon raven rooster salamander seal sheep shrew skunk sloth snail sparrow squirrel stork swallow swan tiger toad
    tortoise toucan turkey turtle walrus weasel whale wolf wombat woodpecker wren yak zebra"""
)
THINGS = words(
    """acorn anchor apron balloon banjo basket bell blanket boat book boot bottle bow bowl box bracelet broom brush bucket
    button candle cape card carpet chain chair chalk chest clock coat coin comb compass cookie_jar cork crayon crown cup
    curtain cushion diary doll drum envelope fan feather fiddle flag flute fork glove guitar hammer harp hat helmet hook hoop
    jacket jar jewel jug kettle key kite knot ladder lamp lantern lasso leaf letter lid locket magnet map marble mask medal
    mirror mitten mug necklace needle net nut oar paddle page paintbrush pan parasol pebble pen pencil picture pillow pinwheel
    pipe plate pocket_watch pot pouch puppet purse puzzle quilt rattle ribbon ring robe rope rug sack saddle sandal saucer
    scarf scooter seashell shawl shoe shovel skate sled slipper soap sock spade spinning_top spool spoon stamp star_chart
    stick stool suitcase sweater tambourine teapot telescope tent thimble ticket torch towel toy_train trophy trumpet
    trunk tunic typewriter vase vest violin wagon walking_stick wallet wand watering_can whistle wig windmill wooden_duck xylophone yo-yo"""
)
PLACES = words(
    """attic bakery balcony barn beach bridge brook cabin camp canal canyon castle cave cellar chapel cliff closet coast
    cottage courtyard creek dairy dam den desert ditch dock dune farm farmyard fairground field ford forest fort fountain
    garage garden gate_house glade grove harbor hayloft hedge henhouse hill hilltop hollow hut inn island jetty jungle
    kitchen lagoon lake library lighthouse mill lookout maze market marsh meadow mine moor mountain museum nest nook
    oasis orchard palace park pasture path pavilion pier playground pond porch post_office prairie quarry quay railway
    reef ridge riverbank road rooftop ruin schoolyard shed shop shore square stable stage station stream street study swamp
    temple theater tower town trail train_yard tunnel valley veranda village vineyard wall well wharf windmill_hill
    woods workshop yard zoo"""
)
ADJECTIVES = words(
    """ancient bent bold bright brand-new broken bumpy careful cheerful chilly clean clever cloudy cold comfy cozy cracked
    crooked crumpled curious curly dainty damp dark dear deep delicate dented dirty dizzy drowsy dusty eager early elegant
    empty enormous fading faint fancy fast feathery fierce fine floppy fluffy folded fragile fresh friendly frosty funny fuzzy gentle
    giant glassy gleaming glittery glossy golden graceful grand grubby handy happy hasty heavy hidden high hollow honest huge humble
    hungry icy jolly jumpy keen kind knitted large lazy leafy light little lively lonely long lost loud lovely loyal lucky
    magic merry messy mighty misty modest muddy narrow neat new nimble noisy odd old open painted pale patient patched plain playful
    pointed polished polite proud quaint quick quiet rare rickety ripe round rough rusty sandy scruffy secret shabby shadowy shaky sharp
    shiny shy silent silky silly simple sleepy slim slippery slow small smooth snug soft solid special speckled spicy spotless spotted
    square steady steep sticky stout strange striped strong sturdy sunny sweet swift tall tangled tidy tiny tired tough tricky
    twisted velvet vast warm wavy weathered wet whispering wide wild wise wobbly wonderful wooden woolly young"""
)
COLOURS = words(
    """amber black blue bronze brown copper cream crimson emerald gold gray green indigo ivory lavender lemon lilac lime
    maroon mint navy orange peach pink purple red rose ruby scarlet silver tan teal turquoise violet white yellow"""
)
FOODS = words(
    """apples apricots bananas barley_soup beans berries biscuits blueberries bread buns butter cabbage cake carrots cheese
    cherries chestnuts chocolate cider cocoa coconuts cookies corn crackers crumbs cucumbers custard dates dumplings eggs figs
    fudge gingerbread grapes hazelnuts honey jam jelly juice lemonade lentils melons milk mints muffins mushrooms noodles
    nuts oatmeal olives onions oranges pancakes pasta peaches peanuts pears peas pepper pickles pie plums popcorn porridge
    potatoes pretzels pudding pumpkin raisins raspberries rice rolls salad seeds soup spinach stew strawberries sugar syrup
    tarts tea toast toffee tomatoes turnips waffles walnuts watermelon yogurt"""
)
FEELINGS = words(
    """afraid alarmed amazed anxious ashamed bored calm cheery cross curious delighted disappointed discouraged eager
    embarrassed excited frightened frustrated furious gloomy grateful grumpy guilty hopeful hurt impatient jealous joyful
    lonely miserable nervous overjoyed peaceful pleased proud puzzled relieved restless sad scared shocked shy sorry startled
    surprised tearful thankful thrilled troubled uneasy unhappy upset weary worried"""
)
JOBS = words(
    """actor artist baker barber beekeeper blacksmith builder butcher captain carpenter cobbler conductor cook dancer dentist
    diver doctor driver farmer ferryman fiddler fisherman gardener glassblower grocer guard juggler knight librarian locksmith
    mail_carrier mason mayor milkmaid miller miner musician nurse painter pilot plumber poet policeman potter sailor scientist
    sculptor shepherd singer soldier stonecutter tailor teacher toymaker traveler vet waiter watchman weaver woodcutter
    zookeeper"""
)
ADVERBS = words(
    """bravely brightly briskly calmly carefully cautiously cheerfully clumsily coldly crossly eagerly easily firmly fondly
    gently gladly gracefully happily hurriedly kindly lightly loudly merrily neatly nervously patiently playfully politely
    proudly quickly quietly sadly shyly silently sleepily slowly smoothly softly steadily sternly suddenly sweetly swiftly
    tenderly thoughtfully timidly warmly wearily wisely"""
)
WEATHER = words(
    """breezy bright_and_cold bright_and_warm clear cloudless cool crisp drizzly dull foggy frosty gusty hazy hot humid icy
    mild misty rainy showery snowy starry stormy sunny warm wet windy"""
)
SEASONS = words("spring summer autumn winter April May June October November December")
TIMES = words(
    "morning afternoon evening night noon dawn dusk sunrise sunset Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
)
PLANTS = words(
    """apple_tree ash aspen bamboo beech birch blackberry_bush bluebell bramble buttercup cactus cedar clover crocus daffodil daisy
    dandelion elm fir foxglove geranium heather holly honeysuckle hyacinth iris ivy jasmine juniper larch lily lupin magnolia
    maple marigold moss nettle oak orchid palm pansy petunia pine poplar poppy primrose reed rosebush rowan sage snowdrop
    sunflower sycamore thistle thyme tulip vine wildflower willow yew"""
)
SOUNDS = words(
    """bang boom buzz chime clang clank clatter clink crackle creak crunch drip flutter giggle groan growl gurgle hiss hoot
    hum jingle knock moan murmur patter ping plop pop purr rattle ring roar rumble rustle scrape screech sigh sizzle snap
    sniff snore splash squawk squeak swish tap thud thump tinkle twang wail whir whistle whoosh yelp"""
)
KIN = words("aunt uncle mother father grandmother grandfather sister brother cousin neighbor")
MATERIALS = words(
    "brass brick cardboard clay cloth cotton glass iron leather linen marble_stone oak_wood paper pearl porcelain silk steel stone straw tin wicker wool"
)
VERBS = words(
    """baked bounced brushed built carried carved chased cheered chopped clapped climbed counted crawled danced dug drew
    dreamed drummed fetched fished folded gathered giggled hopped hummed juggled jumped kicked knitted laughed leaped listened
    marched mixed paddled painted peeked planted played polished raced rested rolled rowed sailed scrubbed sewed shouted sketched skipped
    slept slid smiled sneezed sorted splashed spun stacked stretched swam swept swung tiptoed tumbled twirled waded
    waltzed wandered washed watched waved whispered whittled wiggled wondered wrote yawned"""
)
NUMBERS = words("two three four five six seven eight nine ten eleven twelve twenty")
