"""Files that are large, folders with many files, and names that are hard to write: from step to step on a cluster."""

from __future__ import annotations

from e2e.files_fixtures import Lab
from e2e.memory import Peak, peaks
from e2e.operator_fixtures import Status, script, step_of, steps

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

MIB = 1 << 20
MOST_MEMORY = 64 * MIB
COLLECTOR, FETCH = "penstock.step.collector", "penstock.step.fetch"
SECONDS = 300

# Each with its size and its digest.
SIZES = {"large": 1_000_000_000, "medium": 100_000_000, "small": 1, "empty": 0}
MAKE = r"""
make() {
  head -c "$2" /dev/urandom > "$PENSTOCK_OUTPUTS/$1"
  echo "$1-sha256=$(sha256sum < "$PENSTOCK_OUTPUTS/$1")" >> "$PENSTOCK_OUTPUT"
}
make large 1000000000; make medium 100000000; make small 1; make empty 0
"""
CHECK = r"""
for name in large medium small empty; do
  test "$(sha256sum < "$PENSTOCK_INPUTS/$name")" = "$(cat "$PENSTOCK_INPUTS/$name-sha256")" || exit 9
done
"""


def taken(lab: Lab, name: str, step: str, program: str, found: dict[tuple[str, str], Peak]) -> Peak:
    """What a program took in the pod of a step."""
    (pod,) = [each for each in lab.place.pods(name) if each["metadata"]["labels"]["penstock.dev/step"] == step]
    return found[pod["metadata"]["uid"], program]


def files_of(status: Status, step: str) -> dict[str, Status]:
    return {each["name"]: each["file"] for each in step_of(status, step)["outputs"] if "file" in each}


def test_a_gigabyte_goes_through_and_memory_does_not_grow_with_it(roomy: Lab) -> None:
    digests = [f"{name}-sha256" for name in SIZES]
    outputs = [{"name": name, "type": "file"} for name in SIZES]
    outputs += [{"name": name, "type": "string"} for name in digests]
    inputs = [{"name": name, "from": f"steps.make.outputs.{name.replace('-', '_')}"} for name in [*SIZES, *digests]]
    with peaks(COLLECTOR, FETCH) as seen:
        name = roomy.place.start(steps(script("make", MAKE, outputs=outputs), script("check", CHECK, inputs=inputs)))
        status = roomy.place.wait(name, seconds=SECONDS)
    assert status["phase"] == "Succeeded", status
    made = files_of(status, "make")
    assert {name: file["size"] for name, file in made.items()} == SIZES
    for step, program in (("make", COLLECTOR), ("check", FETCH)):
        peak = taken(roomy, name, step, program, seen.found)
        print(f"{program}: {peak}")
        assert 0 < peak.process <= MOST_MEMORY, (program, str(peak))
        assert 0 < peak.charged <= MOST_MEMORY, (program, str(peak))


MANY = r"""
text=$(head -c 700 /dev/urandom | base64 -w 0)
folder=0
while [ $folder -lt 100 ]; do
  mkdir -p "$PENSTOCK_OUTPUTS/tree/deep $folder"
  file=0
  while [ $file -lt 100 ]; do
    echo "$folder $file $text" > "$PENSTOCK_OUTPUTS/tree/deep $folder/file $file"
    file=$((file + 1))
  done
  folder=$((folder + 1))
done
cd "$PENSTOCK_OUTPUTS/tree"
echo "digest=$(find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)" >> "$PENSTOCK_OUTPUT"
"""
COUNT = r"""
cd "$INPUT_TREE"
test "$(find . -type f | wc -l)" = 10000
test "$(find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)" = "$INPUT_DIGEST"
cp -r . "$PENSTOCK_OUTPUTS/again"
"""


def test_a_folder_of_ten_thousand_files_arrives_whole_and_goes_on_unchanged(roomy: Lab) -> None:
    outputs = [{"name": "tree", "type": "file"}, {"name": "digest", "type": "string"}]
    inputs = [{"name": each["name"], "from": f"steps.make.outputs.{each['name']}"} for each in outputs]
    count = script("count", COUNT, inputs=inputs, outputs=[{"name": "again", "type": "file"}])
    with peaks(COLLECTOR, FETCH) as seen:
        name = roomy.place.start(steps(script("make", MANY, outputs=outputs), count))
        status = roomy.place.wait(name, seconds=SECONDS)
    assert status["phase"] == "Succeeded", status
    made, again = files_of(status, "make")["tree"], files_of(status, "count")["again"]
    # What is in the two folders is the same, so is what stands for them.
    assert (made["sha256"], made["size"], made["folder"]) == (again["sha256"], again["size"], True)
    assert made["size"] > 10_000_000 * 0.9
    for step, program in (("make", COLLECTOR), ("count", FETCH)):
        peak = taken(roomy, name, step, program, seen.found)
        print(f"{program}: {peak}")
        assert 0 < peak.process <= MOST_MEMORY, (program, str(peak))


NAMES = r"""
cd "$PENSTOCK_OUTPUTS"
mkdir -- tree 'tree/ two  spaces ' tree/-rf 'tree/Ünï çødé — 日本語 🎈' "tree/it's \"quoted\" \`too\` \$HOME"
put() { printf '%s' "$1" > "tree/$1"; }
put ' leading and trailing '
put '-n'
put '--help'
put "it's"
put 'a "quote"'
put 'back\slash'
put '$(exit 1) `exit 1` ; & | > * ? [x] {a,b} ~ # % ! %41 +'
put 'é (composed)'
put "$(printf 'e\314\201 (decomposed)')"
put "$(printf 'a\nnew line')"
put "$(printf 'tab\there')"
put "$(printf 'not UTF-8: \377\376')"
put '.hidden'
put '...'
put "$(head -c 255 /dev/zero | tr '\0' x)"
echo deep > 'tree/Ünï çødé — 日本語 🎈/-rf'
echo deep > "tree/it's \"quoted\" \`too\` \$HOME/ "
ln -s -- "$(printf 'a\nnew line')" "tree/$(printf 'link to a\nnew line')"
tell() { (cd tree && find . -print0 | sort -z && find . -type f -print0 | sort -z | xargs -0 cat) | sha256sum; }
echo "digest=$(tell)" >> "$PENSTOCK_OUTPUT"
"""
COMPARE = r"""
cd "$PENSTOCK_INPUTS/a-Tree_1"
found=$( (find . -print0 | sort -z && find . -type f -print0 | sort -z | xargs -0 cat) | sha256sum)
test "$found" = "$INPUT_DIGEST"
test "$INPUT_A_TREE_1" = "$PENSTOCK_INPUTS/a-Tree_1"
test "$(cat "$(printf 'link to a\nnew line')")" = "$(printf 'a\nnew line')"
cp -r . "$PENSTOCK_OUTPUTS/_Again-"
printf x > "$PENSTOCK_OUTPUTS/_again-"
printf y > "$PENSTOCK_OUTPUTS/A"
printf z > "$PENSTOCK_OUTPUTS/LONGEST"
"""


LONGEST = "n" * 63


def test_names_that_are_hard_to_write_stay_as_they_are(roomy: Lab) -> None:
    outputs = [{"name": "tree", "type": "file"}, {"name": "digest", "type": "string"}]
    inputs = [
        {"name": "a-Tree_1", "from": "steps.make.outputs.tree"},
        {"name": "digest", "from": "steps.make.outputs.digest"},
    ]
    given = [{"name": name, "type": "file"} for name in ("_Again-", "_again-", "A", LONGEST)]
    compare = script("compare", COMPARE.replace("LONGEST", LONGEST), inputs=inputs, outputs=given)
    last = script(
        "last",
        f'test "$(cat "$PENSTOCK_INPUTS/{LONGEST}")" = z && test "$(cat "$PENSTOCK_INPUTS/_-")" = x',
        inputs=[
            {"name": LONGEST, "from": f"steps.compare.outputs.{LONGEST}"},
            {"name": "_-", "from": "steps.compare.outputs._again_"},
        ],
    )
    status = roomy.place.wait(
        roomy.place.start(steps(script("make", NAMES, outputs=outputs), compare, last)), seconds=SECONDS
    )
    assert status["phase"] == "Succeeded", status
    made, again = files_of(status, "make")["tree"], files_of(status, "compare")
    assert made["sha256"] == again.pop("_Again-")["sha256"]
    assert {name: file["size"] for name, file in again.items()} == {"_again-": 1, "A": 1, LONGEST: 1}
