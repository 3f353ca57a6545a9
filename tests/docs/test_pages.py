"""The pages: what they promise about the repository, and what the hooks make of them."""

import re
import tomllib

import pytest
import run_commands


def test_the_readme_marks_the_two_commands(root):
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert re.findall(r"^<!-- ci: (\w+) -->$", text, re.MULTILINE) == ["train", "test"]
    train, test = [block for block in run_commands.blocks(readme) if block.comment == "ci"]
    assert train.lines[-1].endswith(".venv/bin/baremetal train")
    assert "pytest" in test.lines[-1]


def test_every_block_of_the_documentation_is_run_or_says_why_not(root):
    for page in run_commands.pages([root / "docs", root / "README.md", root / "CONTRIBUTING.md"]):
        assert run_commands.faults(list(run_commands.blocks(page))) == []


def test_the_map_shows_every_room(root):
    contract = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    floors = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (root / "docs" / "map.md").read_text(encoding="utf-8")
    for name in re.findall(r"baremetal\.(\w+)", " ".join(floors)):
        assert f"`{name}/`" in text or f"`{name}.py`" in text


def test_the_lowest_versions_are_the_lower_bounds_of_the_project(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["tokenizers"] + extras["test"]
    bounds = dict(requirement.partition(";")[0].split(">=") for requirement in wanted)
    text = (root / ".github" / "constraints-lowest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))
    assert pins.keys() >= bounds.keys()
    for name, bound in bounds.items():
        assert pins[name] == bound or pins[name].startswith(f"{bound}.")


@pytest.fixture
def hooks():
    pytest.importorskip("mkdocs", reason="needs the docs extra: pip install -e '.[docs]'")
    pytest.importorskip("latex2mathml")
    import hooks

    return hooks


def test_every_room_that_exists_has_an_api_page(root, hooks):
    rooms = hooks.rooms()
    assert rooms.index("kernels") < rooms.index("autograd") < rooms.index("train")
    text = hooks.api_page("kernels")
    assert text.startswith("# baremetal.kernels\n")
    assert "\n## kernels.cost\n\n::: baremetal.kernels.cost\n" in text
    assert "__init__" not in text


def test_the_overhead_page_shows_the_recorded_run(root, hooks):
    from baremetal.bench.overhead import reading

    text = (root / "docs" / "overhead.md").read_text(encoding="utf-8")
    made = hooks.on_page_markdown(text, page=None)
    recorded = reading.load_curve(reading.RECORDED)
    assert hooks.CURVE_TABLES in text
    assert hooks.CURVE_TABLES not in made
    assert recorded["machine"]["processor"] in made
    for contender in reading.contenders(recorded):
        assert f"`{contender}`" in text  # each is explained
        assert f" {contender}" in made.partition("median step of each")[2]  # and in a table
    assert hooks.on_page_markdown("another page", page=None) == "another page"
    assert hooks.overhead_picture().startswith(b"\x89PNG")


class FakePage:
    class file:  # noqa: N801 - mkdocs calls this attribute so
        src_uri = "a/page.md"


def test_formulas_become_mathml(hooks):
    inline = r'<p>a <span class="arithmatex">\(x &lt; y^2\)</span> b</p>'
    made = hooks.on_page_content(inline, page=FakePage())
    assert re.fullmatch(r'<p>a <math .*display="inline".*<msup>.*</math> b</p>', made)
    assert "<mo>&lt;</mo>" in made  # the less-than sign, and not the letters l and t
    block = (
        r'<div class="arithmatex">\[\begin{aligned} a &amp;= b \\ c &amp;= d \end{aligned}\]</div>'
    )
    made = hooks.on_page_content(block, page=FakePage())
    assert made.count("<mtr>") == 2
    assert 'display="block"' in made


GAP = '<mspace width="0.17em" />'


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        (r"\log l_i", f"<mi>log</mi>{GAP}<msub>"),
        (r"\tfrac{1}{2} \ln 2", f"</mstyle>{GAP}<mi>ln</mi>{GAP}<mn>2</mn>"),
        (r"\tanh(x)", '<mi>tanh</mi><mo stretchy="false">('),
        (r"\log_2 x", f"<msub><mi>log</mi><mn>2</mn></msub>{GAP}<mi>x</mi>"),
        (r"\log \sum_j a_j", "<mi>log</mi><msub><mo>\u2211</mo>"),
        (r"\max(m, \max s)", f"<mi>max</mi>{GAP}<mi>s</mi>"),
        (r"\max\left( m \right)", "<mi>max</mi><mrow><mo "),
        (r"e^{-\infty}", "<mo>\u2212</mo><mi>\u221e</mi>"),
        (r"c = -0.25", '<mo>=</mo><mo form="prefix">\u2212</mo><mn>0.25</mn>'),
        (r"[-1, 1]", '<mo stretchy="false">[</mo><mo form="prefix">\u2212</mo>'),
        (r"a - b", "<mi>a</mi><mo>\u2212</mo><mi>b</mi>"),
        (r"f(a) - b", '<mo stretchy="false">)</mo><mo>\u2212</mo>'),
        (r"\text{work} + \text{rest}", "<mi>work</mi><mo>+</mo><mi>rest</mi>"),
    ],
)
def test_functions_and_signs_are_spaced_as_tex_does(hooks, tex, part):
    assert part in hooks.mathml(tex, "inline")


def test_a_formula_with_an_unknown_command_fails_the_build(hooks):
    with pytest.raises(Exception, match=r"a/page.md.*unknown command \\foo"):
        hooks.on_page_content(r'<span class="arithmatex">\(\foo{x}\)</span>', page=FakePage())
