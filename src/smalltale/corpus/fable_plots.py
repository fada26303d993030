"""The plots that fable tells: each a row of beats, each beat one of several ways to say it.

In: nothing. Out: PLOTS and the beats that every plot shares.
Beware: lower-case slots keep their value through a story, upper-case slots are drawn anew each time.
"""

from __future__ import annotations

Beat = tuple[str, ...]

OPENINGS: Beat = (
    "Once upon a time, {a_adj} {child} named {hero} lived near the {place}.",
    "There once was {a_adj} {child} called {hero} who loved to visit the {place}.",
    "One {weather} {time}, {hero} went to the {place} with {his} {kin}.",
    "Long ago, beside {a_ADJ} {place}, there lived {a_adj} {child}. {His} name was {hero}.",
    "{hero} was {a_adj} {child}. Every {time} {he} walked to the {place}.",
    "It was {a_weather} {time} in {season}, and {hero} was playing at the {place}.",
    "In {a_ADJ} house by the {place}, {hero} woke up early one {time}.",
    "At the end of the road stood {a_ADJ} {place}. That was where {hero}, {a_adj} {child}, liked to play.",
    "When {season} came, {hero} and {his} {kin} moved to {a_ADJ} home close to the {place}.",
    "{hero} had {a_ADJ} bag, {a_ADJ} hat and a big dream. {He} wanted to see the {place}.",
    "Nobody knew the {place} better than {hero}, {a_adj} {child} with {COLOUR} shoes.",
    "The {PLANT} was in bloom, and {hero} sat under it, looking at the {place}.",
)
SCENES: Beat = (
    "The air smelled of {FOOD}, and somewhere {a_SOUND} could be heard.",
    "{A_ADJ} {ANIMAL} {VERB} by, and a {COLOUR} cloud hung over the {PLANT}.",
    "{He} wore a {COLOUR} coat and carried {FOOD} for lunch.",
    "Outside it was {WEATHER}, and the {PLANT} moved in the wind.",
    "{His} {kin}, the {JOB}, had given {him} some {FOOD} that day.",
    "The {ADJ} sun shone on a {COLOUR} gate made of {MATERIAL}.",
    "Far away, {a_ANIMAL} and {a_ANIMAL} {VERB} {ADVERB} in the grass.",
    "{hero} {VERB} all the way, past the {PLANT} and the {ADJ} {PLACE}.",
    "That {TIME}, everything looked {ADJ} and a little {ADJ}.",
    "{He} hummed a {ADJ} song about {a_ANIMAL} who ate {FOOD}.",
)
FEELS: Beat = (
    "{hero} felt {FEELING}, and {his} heart went {SOUND}, {SOUND}, {SOUND}.",
    '"Oh dear," said {hero} {ADVERB}. "What shall I do now?"',
    "At first {he} was {FEELING}, and then {he} was only {FEELING}.",
    '"Please do not be {FEELING}," {hero} told {himself}. "Think {ADVERB}."',
    "{He} sat down on {a_ADJ} {THING} and thought for a long while.",
    "{hero} looked left and right, but there was only {a_ADJ} {ANIMAL}.",
    '"I am {FEELING}," {he} whispered to the {ADJ} {ANIMAL} nearby.',
    "{His} hands were {ADJ}, and {his} nose was {ADJ} too.",
)
MEETINGS: Beat = (
    'Just then {friend} came by with {a_ADJ} {THING}. "Can I help you?" asked {friend}.',
    '{friend}, who was {a_JOB}, heard {him} and came {ADVERB}. "Tell me all about it," said {friend}.',
    'A {COLOUR} {animal} stepped out from behind the {PLANT}. "I am {friend}," said the {animal}. "Do not be {FEELING}."',
    "{friend} was sitting under {a_PLANT}, eating {FOOD}. {friend} jumped up at once to help.",
    '"Hello there!" called {friend} from the {PLACE}. "You look {FEELING} today."',
    "Along the path came {friend} the {animal}, who {VERB} and carried {a_ADJ} {THING}.",
    "Then {hero} remembered {friend}, the {ADJ} {JOB} who lived by the {PLACE}, and ran there {ADVERB}.",
    'A {ADJ} voice said, "Wait for me!" It was {friend}, with {FOOD} in one hand and {a_THING} in the other.',
)
TALKS: Beat = (
    '"Two heads are better than one," said {friend} {ADVERB}, and {hero} nodded.',
    '"Do you like {FOOD}?" asked {friend}. "Yes," said {hero}, "but first we must finish this."',
    '"My {KIN} is {a_JOB} and taught me how," said {friend}. "Watch {ADVERB}."',
    '"You are very {ADJ}," said {hero}. {friend} {VERB} and turned {COLOUR}.',
    '"Are you {FEELING}?" asked {friend}. "Only a little," answered {hero} {ADVERB}.',
    '"If we work {ADVERB}, it will be done before {TIME}," said {friend}.',
    '"Listen," said {hero}. They heard {a_SOUND}, and then {a_ADJ} {SOUND}.',
    '"I once saw {a_ADJ} {ANIMAL} do this," said {friend}, "and it had only {a_THING}."',
)
ENDINGS: Beat = (
    "From that day on, {hero} and {friend} were the best of friends, and they shared {FOOD} every {TIME}.",
    "That night {hero} slept {ADVERB} and dreamed of {a_ADJ} {ANIMAL} at the {place}.",
    "They ate {FOOD} together and {VERB} until the {COLOUR} sun went down.",
    "{hero} went home {FEELING} and told {his} {kin} the whole story, from the {ADJ} start to the {ADJ} end.",
    '"What {a_ADJ} day," said {hero}. {friend} smiled {ADVERB}. They were both {FEELING}.',
    "And if you visit the {place} in {SEASON}, you can still see the {ADJ} {THING} they left there.",
    "Everyone at the {place} {VERB} and {VERB}, and {friend} gave {hero} {a_COLOUR} {THING} to keep.",
    "After that, {hero} was never {FEELING} at the {place} again.",
    "The {JOB} gave them warm {FOOD}, and they all lived {ADVERB} by the {place}.",
)
MORALS: Beat = (
    "{hero} had learned that {lesson}.",
    "Now {hero} knew that {lesson}.",
    '"Remember," said {friend}, "{lesson}."',
    "",
)

PLOTS: dict[str, tuple[str, tuple[Beat, ...]]] = {
    "lost thing": (
        "it is good to look twice",
        (
            (
                "But {his} {adj2} {thing} was gone. {He} looked under the {PLANT} and inside {a_THING}.",
                "{hero} reached for {his} {thing}, but the pocket was empty. Had it fallen near the {place2}?",
            ),
            (
                "They searched the {place2} from top to bottom and found only {a_ADJ} {THING}.",
                "First they looked by the {place2}, then behind {a_ADJ} {PLANT}. There was no {thing}.",
            ),
            (
                "At last something {COLOUR} blinked in the mud. It was the {thing}, {ADJ} but whole!",
                "Then {friend} lifted a {COLOUR} leaf, and there lay the {adj2} {thing}.",
            ),
        ),
    ),
    "broken thing": (
        "a mended thing can be dearer than a new one",
        (
            (
                "{hero} dropped the {thing} that belonged to {his} {kin}. {SOUND}! It broke in two.",
                "With {a_SOUND} the {adj2} {thing} fell from the shelf and cracked.",
            ),
            (
                "They tried {FOOD} as glue, which was {ADJ} but did not hold.",
                "A ribbon did not hold it, and neither did a bit of {MATERIAL}.",
            ),
            (
                "In the end a strip of {MATERIAL} and a drop of glue made the {thing} strong again.",
                "So they sewed it with {COLOUR} thread, and the {thing} looked better than before.",
            ),
        ),
    ),
    "shy singer": (
        "a small voice can fill a big room",
        (
            (
                "There was to be a show at the {place2}, and {hero} had to sing. {His} knees shook.",
                "{hero} loved to sing, but only when nobody was near. Now the {JOB} asked {him} to sing at the {place2}.",
            ),
            (
                "{friend} said to sing to just one {ANIMAL} first, and then to two.",
                "They practiced {ADVERB} behind {a_PLANT}, where only {a_ANIMAL} could hear.",
            ),
            (
                "When the curtain rose, {hero} looked at {friend} and sang. The whole {place2} clapped.",
                "{He} shut {his} eyes, took a breath, and the song came out {ADJ} and {ADJ}.",
            ),
        ),
    ),
    "deep hole": (
        "asking for help is brave",
        (
            (
                "{SOUND}! {hero} slipped and fell into a hole by the {place2}. It was too deep to climb.",
                "The ground gave way, and {hero} landed at the bottom of {a_ADJ} pit.",
            ),
            (
                "{friend} let down {a_THING}, but it was too short by the length of {a_ANIMAL}.",
                "They tried jumping, and they tried shouting. Only an echo answered.",
            ),
            (
                "So {friend} tied {a_THING} to {a_THING}, and pulled {ADVERB} until {hero} was out.",
                "Then {friend} rolled a log of {PLANT} wood down, and {hero} climbed up it {ADVERB}.",
            ),
        ),
    ),
    "mixed-up boxes": (
        "it pays to read the label",
        (
            (
                "{His} {kin} had sent {him} with a box for the {JOB}, but there were two boxes and both were {COLOUR}.",
                "{hero} carried a box of {food} to the {place2}. On the way {he} took the wrong one.",
            ),
            (
                "When the {JOB} lifted the lid, out jumped {a_ADJ} {ANIMAL}!",
                "Inside there was no {food} at all, only {a_ADJ} {THING} and some {MATERIAL}.",
            ),
            (
                "{hero} ran back {ADVERB}, found the right box, and tied {a_COLOUR} ribbon around it.",
                "They traded the boxes, and everyone laughed, even the {ADJ} {JOB}.",
            ),
        ),
    ),
    "stuck kite": (
        "patience reaches where arms cannot",
        (
            (
                "The wind took {his} kite and set it high in {a_PLANT} by the {place2}.",
                "{His} {COLOUR} kite flew up, turned twice, and caught on the roof of the {place2}.",
            ),
            (
                "They threw {a_THING} at it, and now that was stuck as well.",
                "{hero} climbed {a_ADJ} stool, and {friend} climbed on top, but they only {VERB}.",
            ),
            (
                "They waited, and toward {TIME} {a_ADJ} wind blew the kite softly into {his} arms.",
                "A {COLOUR} bird saw them, pulled the string {ADVERB}, and down it came.",
            ),
        ),
    ),
    "greedy lunch": (
        "food tastes better when it is shared",
        (
            (
                "{hero} had a whole basket of {food} and did not want to share any.",
                "There were {number} plates of {food} on the table, and {hero} ate them all.",
            ),
            (
                "Soon {his} tummy went {SOUND}. {He} could not even walk to the {place2}.",
                "Nobody wanted to play with {him} at the {place2}, and {he} felt {FEELING}.",
            ),
            (
                "So {hero} cooked {FOOD} for {friend} and handed over the biggest bowl.",
                "The next time, {hero} cut the {FOOD} into {number} parts, one for every friend.",
            ),
        ),
    ),
    "new neighbor": (
        "a stranger may be a friend you have not met",
        (
            (
                "Somebody new had moved into the {ADJ} house near the {place2}. {hero} was too shy to knock.",
                "A wagon full of {MATERIAL} chairs stopped by the {place2}. Who was coming to live there?",
            ),
            (
                "Through the window {he} saw {a_COLOUR} {THING} and {a_ADJ} {ANIMAL}.",
                "{He} left a bowl of {food} at the door, rang the bell, and hid {ADVERB}.",
            ),
            (
                "The door opened, and a {ADJ} voice asked {him} in for {FOOD}.",
                "Next day there was a letter at {his} own door. It said thank you in {COLOUR} ink.",
            ),
        ),
    ),
    "race day": (
        "kindness is worth more than a prize",
        (
            (
                "It was the day of the great race from the {place} to the {place2}. The prize was {a_ADJ} {thing}.",
                "{hero} had trained for {number} weeks to win the {thing} at the race.",
            ),
            (
                "Half way along, {he} heard {a_SOUND}. {A_ADJ} {ANIMAL} had hurt its foot.",
                "{hero} was in front when {a_ANIMAL} fell into the ditch beside {him}.",
            ),
            (
                "{He} stopped and carried it to the {JOB}. {hero} came last, but everybody cheered.",
                "So they crossed the line together, {ADVERB}, and the {JOB} gave both of them the {thing}.",
            ),
        ),
    ),
    "noisy night": (
        "most scary things are small when you see them",
        (
            (
                "In the night there was {a_SOUND} from the {place2}. Then came {a_SOUND}.",
                "{SOUND}, {SOUND}! Something was in the {place2}, and {hero} could not sleep.",
            ),
            (
                "They took {a_ADJ} lamp and crept along on tiptoe.",
                "With {a_THING} in one hand and {a_THING} in the other, {he} opened the door.",
            ),
            (
                "It was only {a_ADJ} {ANIMAL} eating {FOOD}. It looked more {FEELING} than they did.",
                "They found a shutter that swung in the wind, and shut it with a bit of {MATERIAL}.",
            ),
        ),
    ),
    "dry garden": (
        "little by little makes a lot",
        (
            (
                "It had not rained since {SEASON}, and the {plant} by the {place2} was drooping.",
                "The {plant} had dry, {COLOUR} leaves. It wanted water, and the {place2} was far.",
            ),
            (
                "{hero} carried {number} cups of water, and then {number} more.",
                "They dug {a_ADJ} ditch with {a_THING}, and {a_ANIMAL} helped.",
            ),
            (
                "In a week the {plant} stood straight and grew {a_COLOUR} bud.",
                "One {TIME} the clouds came at last, {ADJ} and full, and it rained on the {plant}.",
            ),
        ),
    ),
    "wrong path": (
        "it is wise to mark the way",
        (
            (
                "The path split in two by the {place2}, and {hero} took the {ADJ} one. Soon nothing looked right.",
                "{hero} followed {a_ADJ} {ANIMAL} for so long that {he} was lost.",
            ),
            (
                "They passed the same {PLANT} {number} times.",
                "{friend} drew a map on {a_THING}, but it was upside down.",
            ),
            (
                "Then they dropped crumbs of {FOOD} at each turn, and so they found the {place2}.",
                "From the top of {a_PLANT} they saw the {COLOUR} roof of home and ran {ADVERB}.",
            ),
        ),
    ),
    "little liar": (
        "the truth is easier to carry than a lie",
        (
            (
                '"Who ate the {food}?" asked {his} {kin}. "The {ANIMAL} did," said {hero}, but it was not true.',
                "{hero} told everyone that {he} had seen {a_COLOUR} {ANIMAL} at the {place2}. {He} had made it up.",
            ),
            (
                "One lie needed another, and then {number} more. {hero} felt {FEELING}.",
                "Everyone in town came to look, even {a_JOB} and {a_JOB}, and there was nothing there.",
            ),
            (
                '"I am sorry," {hero} said at last. "It was me." And {he} gave {his} own {FOOD} away.',
                "{He} told the truth {ADVERB}, and at once {he} felt as light as a feather.",
            ),
        ),
    ),
    "magic wish": (
        "the best wish is one for somebody else",
        (
            (
                "In the {place2} {hero} found {a_ADJ} {thing}. When {he} rubbed it, it spoke. It would grant one wish.",
                'An old {job} gave {him} {a_ADJ} {thing}. "It grants a single wish," said the {job}.',
            ),
            (
                "{He} thought of a mountain of {FOOD}, and of a {COLOUR} castle.",
                "{hero} could wish for {a_ADJ} {ANIMAL}, or for a house of {MATERIAL}.",
            ),
            (
                "Then {he} saw that {friend} was hurt, and wished {friend} well again.",
                "But {friend} was {FEELING}, so {hero} wished that {friend} would be {FEELING} instead.",
            ),
        ),
    ),
    "runaway pet": (
        "love will find the way home",
        (
            (
                "{His} pet {animal2} slipped through the gate and ran toward the {place2}.",
                "The little {animal2} was not in its bed of {MATERIAL}. It had run away!",
            ),
            (
                "They hung up {number} pictures and asked {a_JOB} and {a_JOB}.",
                "{hero} shook a box of {food}, and called its name {ADVERB}.",
            ),
            (
                "There sat the {animal2} in {a_ADJ} {THING}, sound asleep.",
                "When {TIME} came, it scratched at the door with {a_COLOUR} leaf on its head.",
            ),
        ),
    ),
    "first day": (
        "everybody is new once",
        (
            (
                "It was the first day at the school by the {place2}, and {hero} knew nobody there.",
                "{hero} had a new job helping the {job} at the {place2}. {He} did not know how anything worked.",
            ),
            (
                "{He} spilled the {food} and sat on {a_ADJ} {THING}.",
                "{He} hung {his} coat on the wrong hook and said {a_JOB} was a {JOB}.",
            ),
            (
                "Then {friend} made room on the bench, and the rest was easy.",
                "By {TIME}, {he} could do it all, and even showed {friend} a trick with {a_THING}.",
            ),
        ),
    ),
    "snow day": (
        "cold hands make warm friends",
        (
            (
                "Snow covered the {place2}, and {hero} wanted to build a snow {animal2}.",
                "It snowed all night. In the morning even the {PLANT} was white.",
            ),
            (
                "They gave it {a_THING} for a nose and {FOOD} for eyes.",
                "It kept falling to one side, {SOUND}, into the {ADJ} snow.",
            ),
            (
                "When it was done it looked so real that {a_ANIMAL} bowed to it.",
                "They put {a_COLOUR} scarf on it, and all the children {VERB}.",
            ),
        ),
    ),
    "big storm": (
        "a storm passes sooner with company",
        (
            (
                "Black clouds rolled over the {place2}. {SOUND}! went the thunder.",
                "The wind blew so hard that it carried off {a_THING} and {number} hats.",
            ),
            (
                "They ran into {a_ADJ} shed, where {a_ANIMAL} was hiding as well.",
                "{friend} held on to the {plant}, and {hero} held on to {friend}.",
            ),
            (
                "They told stories about {a_JOB} and {a_ANIMAL} until the rain was only a patter.",
                "When it was over, a {COLOUR} and {COLOUR} rainbow stood above the {place2}.",
            ),
        ),
    ),
    "boat trip": (
        "steady hands bring a boat home",
        (
            (
                "{hero} built a boat of {MATERIAL} and pushed it out toward the {place2}.",
                "They took {a_ADJ} boat across the water, with {FOOD} for the trip.",
            ),
            (
                "A leak! Water came in with {a_SOUND}.",
                "A wave as big as {a_ANIMAL} turned the boat around {number} times.",
            ),
            (
                "{He} stuffed the hole with {FOOD}, and {friend} bailed with {a_THING}.",
                "{A_ADJ} {ANIMAL} pushed them to shore with its nose.",
            ),
        ),
    ),
    "cake for mom": (
        "a gift made with care is never too small",
        (
            (
                "Tomorrow was the birthday of {his} {kin}, and {hero} had no gift.",
                "{hero} wanted to bake something with {food} for {his} {kin}.",
            ),
            (
                "The dough was too {ADJ}, then too {ADJ}, and then it went {SOUND}.",
                "{He} looked in the {PLACE} and in the {PLACE}, but everything cost too much.",
            ),
            (
                "So {he} made a card of {MATERIAL} and wrote {number} kind words on it.",
                "It came out {ADJ} and a bit {COLOUR}, but {his} {kin} ate every crumb.",
            ),
        ),
    ),
    "tower": (
        "a good base holds up the rest",
        (
            (
                "{hero} wanted to build the tallest tower at the {place2}.",
                "With {number} blocks of {MATERIAL}, {hero} began a tower as tall as the {plant}.",
            ),
            (
                "{SOUND}! It fell when {a_ANIMAL} sneezed.",
                "On top {he} put {a_ADJ} {THING}, and the whole thing leaned.",
            ),
            (
                "They began again with {ADJ} stones below and {ADJ} ones above, and now it stood.",
                "{friend} held the bottom {ADVERB}, and the last block stayed.",
            ),
        ),
    ),
    "lost baby": (
        "nobody is too small to help",
        (
            (
                "A baby {animal2} sat alone by the {place2} and cried for its mother.",
                "{hero} heard a thin {SOUND}. It was a baby {animal2}, and it was {FEELING}.",
            ),
            (
                "They asked {a_ANIMAL}, then {a_ANIMAL}, but nobody had seen the mother.",
                "It would not eat {FOOD}, and it would not eat {FOOD}.",
            ),
            (
                "Beyond the {PLACE} the mother was calling. How she ran when she saw her little one!",
                "They followed the tracks as far as {a_PLANT}, and there the mother stood.",
            ),
        ),
    ),
    "treasure map": (
        "the search can be the treasure",
        (
            (
                "Inside {a_ADJ} {THING} {hero} found a map. A {COLOUR} cross marked the {place2}.",
                "A bottle came floating along with a map to the {place2} inside.",
            ),
            (
                "They walked {number} steps past {a_PLANT}, and {number} steps past {a_ADJ} {PLACE}.",
                "They dug with {a_THING} until their arms were {ADJ}.",
            ),
            (
                "In the chest lay no gold, but {a_ADJ} {thing} and a jar of {FOOD}.",
                "Under the earth was {a_MATERIAL} box, and in it a note. It said, well done.",
            ),
        ),
    ),
    "angry words": (
        "sorry is a strong word",
        (
            (
                "{hero} and {friend} both wanted the {adj2} {thing}, and they pulled until it tore.",
                '"You always win!" shouted {hero}, and {he} kicked the {thing} into the {place2}.',
            ),
            (
                "For {number} days they did not speak. {hero} played with {a_ANIMAL}, but it was not the same.",
                "At home even the {food} tasted {ADJ}.",
            ),
            (
                'Then {hero} knocked at the door. "I am sorry," {he} said, and held out {a_COLOUR} {THING}.',
                "They both said sorry at the very same time, and then both of them {VERB}.",
            ),
        ),
    ),
    "sleepy bear": (
        "good manners wake nobody",
        (
            (
                "A giant {animal2} was asleep on the bridge to the {place2}, and nobody could pass.",
                "Right across the path lay {a_ADJ} {animal2}, snoring. {SOUND}, {SOUND}!",
            ),
            (
                "They tickled it with {a_THING}. It only said {SOUND}.",
                "They played {a_THING} beside its ear, and it smiled in its sleep.",
            ),
            (
                "Then {he} held some {food} under its nose, and it woke, ate, and let them by.",
                'They whispered, "Excuse us, please." It rolled aside at once.',
            ),
        ),
    ),
    "paint": (
        "there is more than one right color",
        (
            (
                "{hero} was to paint the fence of the {place2}, but there was only {COLOUR} paint.",
                "The {job} asked for a picture of {a_ANIMAL}, and {hero} painted it {COLOUR} by mistake.",
            ),
            (
                "{He} mixed {COLOUR} with {COLOUR} and got something like mud.",
                "{A_ADJ} {ANIMAL} walked through it and left prints all over.",
            ),
            (
                "The prints looked so {ADJ} that they made {number} more.",
                "Everyone who passed the {place2} stopped to look at it {ADVERB}.",
            ),
        ),
    ),
    "night sky": (
        "far things come nearer when you learn about them",
        (
            (
                "{hero} wanted to touch a star. The highest spot was the {place2}.",
                "Every night {hero} counted the stars over the {place2}, and one was missing.",
            ),
            (
                "{He} stood on {a_THING}, on top of {a_THING}, and it was still too far.",
                "{friend} said that stars are suns, and that the {ANIMAL} has stars of its own.",
            ),
            (
                "In a bowl of still water {he} saw the star, and put {his} finger on it.",
                "Through {a_ADJ} telescope the star was {COLOUR} and {ADJ}. It was there all along.",
            ),
        ),
    ),
    "market day": (
        "a fair trade makes two people glad",
        (
            (
                "{His} {kin} sent {hero} to the market with {number} coins to buy {food}.",
                "{hero} had {a_ADJ} {thing} to trade at the market by the {place2}.",
            ),
            (
                "A {ADJ} {JOB} offered {a_ADJ} {THING} for it, and {a_JOB} offered {FOOD}.",
                "One coin rolled away, {SOUND}, under a cart full of {FOOD}.",
            ),
            (
                "In the end {he} got the {food}, and {a_ADJ} {THING} as well.",
                "{He} traded with {friend}, and both thought they had the better part.",
            ),
        ),
    ),
    "the bully": (
        "you can be strong and kind at once",
        (
            (
                "A big {animal2} at the {place2} took things from the small ones. Today it took the {thing}.",
                '"This is my {place2}!" said {a_ADJ} {animal2}, and pushed {hero} into the mud.',
            ),
            (
                "{hero} stood up {ADVERB} and looked it in the eye.",
                "{number} small friends stood in a row, with {a_ANIMAL} at the front.",
            ),
            (
                '"Why do you do that?" {he} asked. It began to cry. It had nobody to play with.',
                "It was so {FEELING} that it gave everything back and asked to join the game.",
            ),
        ),
    ),
    "sick friend": (
        "a visit is good medicine",
        (
            (
                "The {animal2} at the {place2} had a cold and could only say {SOUND}.",
                "{friend} was ill in bed and could not come to the {place2}.",
            ),
            (
                "{hero} made soup from {food} and put in {a_COLOUR} flower.",
                "{He} brought {a_ADJ} blanket, {number} books and a jar of {food}.",
            ),
            (
                "In {number} days the fever was gone, and there was a dance.",
                "They laughed so much about {a_ANIMAL} in {a_THING} that the cold ran away.",
            ),
        ),
    ),
    "seed": (
        "good things take their time",
        (
            (
                "The {job} gave {hero} one {ADJ} seed. It went into a pot near the {place2}.",
                "{hero} planted {a_COLOUR} seed and sat down to watch it grow.",
            ),
            (
                "A day went by, and {number} days, and nothing came up. {He} sang to it {ADVERB}.",
                "{A_ANIMAL} wanted to eat it, and {he} had to guard it with {a_THING}.",
            ),
            (
                "Then a green tip showed. By {SEASON} it was {a_ADJ} {plant}.",
                "When it bloomed, it was {COLOUR} inside and {COLOUR} outside, and it smelled of {FOOD}.",
            ),
        ),
    ),
    "lost tooth": (
        "growing up comes bit by bit",
        (
            (
                "{His} tooth was loose. {hero} bit into some {food}, and out it fell, right into the {place2}.",
                "{hero} put {his} first lost tooth in {a_THING}, but {a_ANIMAL} ran off with it.",
            ),
            (
                "They looked through {FOOD} and {MATERIAL}, on hands and knees.",
                "{friend} drew a picture of the tooth so that everyone could look for it.",
            ),
            (
                "There it was, small and white, beside {a_PLANT}.",
                "The {ANIMAL} brought it back, and took {a_COLOUR} button for it.",
            ),
        ),
    ),
    "robot": (
        "even a machine needs a rest",
        (
            (
                "The {job} had built a robot of {MATERIAL} to clean the {place2}, but it would not stop.",
                "{hero} made a small robot out of {a_THING} and {a_THING}.",
            ),
            (
                "It polished the {animal2} and ironed the {FOOD}.",
                "{SOUND}, {SOUND}, it went, and it stacked every chair up to the roof.",
            ),
            (
                "{He} found the {COLOUR} switch on its back, and it sat down to rest.",
                "They taught it a game, and from then on it worked only until {TIME}.",
            ),
        ),
    ),
    "the echo": (
        "what you give comes back to you",
        (
            (
                'At the {place2} {hero} shouted, "Go away!" And a voice shouted back, "Go away!"',
                "Someone in the {place2} said everything that {hero} said. How {ADJ} that was!",
            ),
            (
                "{He} made {a_SOUND}, and back came {a_SOUND}.",
                "{He} threw {a_THING} at it and called it {ADJ}, and it called {him} {ADJ} too.",
            ),
            (
                'Then {friend} called, "You are kind!" And the voice answered, "You are kind!"',
                "So {he} sang to it {ADVERB}, and it sang along, line by line.",
            ),
        ),
    ),
}
