# What `meson install` gives, used as programs outside the tree use it.
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from conftest import lend

BUILD = pathlib.Path(os.environ["SMARTIO_BUILD"])
SOURCE = pathlib.Path(__file__).resolve().parents[2]
CONSUMERS = SOURCE / "tests" / "consumers"
HEADERS = sorted(file.name for file in (SOURCE / "include" / "smartio").iterdir())
COMPILERS = ["g++", "g++-14", "clang++-19"]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def found(compiler):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    return compiler


class Tree:
    """An installed tree, whose prefix is not where it will be looked for later."""

    def __init__(self, root):
        self.root = root
        (self.pc,) = root.rglob("smartio.pc")
        self.library = self.pc.parents[1]
        self.prefix = next(parent for parent in self.pc.parents if (parent / "bin").is_dir())
        self.environment = {**os.environ, "PKG_CONFIG_PATH": str(self.pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(root),
                            "CMAKE_PREFIX_PATH": str(self.prefix), "LD_LIBRARY_PATH": str(self.library)}

    def flags(self, *words):
        return run("pkg-config", *words, "smartio", env=self.environment).split()

    def files(self):
        return {str(file.relative_to(self.prefix)) for file in self.prefix.rglob("*") if not file.is_dir()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("installed")
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root)
    return Tree(root)


@pytest.fixture(scope="module")
def static_tree(tree, tmp_path_factory):
    """As where only the static library was installed."""
    root = tmp_path_factory.mktemp("static") / "root"
    shutil.copytree(tree.root, root, symlinks=True)
    made = Tree(root)
    for file in made.library.glob("libsmartio.so*"):
        file.unlink()
    return made


def works(world, program, environment):
    """It lends itself a disk, and reads a register of it."""
    disk = world.disk(name=f"disk{len(world.programs)}")
    place = world.place / f"run{len(world.programs)}"
    place.mkdir(mode=0o700)
    said = run(program, place, disk.device, env=environment)
    assert re.fullmatch(r"\d+\.\d+\.\d+ 80000 capabilities [0-9a-f]+\n", said), said


def test_all_that_belongs_to_it_is_installed(tree):
    files = tree.files()
    library = tree.library.relative_to(tree.prefix)
    version = tree.flags("--modversion")[0]
    assert {f"bin/{name}" for name in ("smartiod", "smartio_tool", "smartio_nvme", "smartio_sim")} <= files
    assert {f"include/smartio/{name}" for name in HEADERS} <= files
    assert {f"{library}/{name}" for name in (f"libsmartio.so.{version}", "libsmartio.so.0", "libsmartio.so",
            "libsmartio.a", "cmake/smartio/smartio-config.cmake", "cmake/smartio/smartio-config-version.cmake")} <= files
    assert {f"share/smartio/schema/{file.name}" for file in (SOURCE / "tools" / "schema").iterdir()} <= files
    assert {"share/doc/smartio/README.md"} | {f"share/doc/smartio/docs/{file.name}"
                                              for file in (SOURCE / "docs").iterdir()} <= files
    others = {file for file in files if not re.match(r"bin/smartio|include/smartio/|share/(doc/)?smartio/", file)}
    assert all(file.startswith(f"{library}/") for file in others), others
    for name in ("smartiod", "smartio_tool", "smartio_nvme", "smartio_sim"):
        assert run(tree.prefix / "bin" / name, "--version").split()[-1] == version


@pytest.mark.parametrize("table, library", [("-D", "libsmartio.so"), ("-g", "libsmartio.a")])
def test_nothing_but_public_names_can_be_seen(tree, table, library):
    lines = run("nm", table, "-C", "--defined-only", "--format=posix", tree.library / library).splitlines()
    names = [line for line in lines if not line.startswith("LIBSMARTIO_0") and not line.endswith(":")]
    assert len(names) > 30 and any(name.startswith("smartio::v0::Node::start(") for name in names), names
    assert not [name for name in names if not name.startswith("smartio::v0::")]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone(tree, compiler, header, tmp_path):
    program = tmp_path / "program.cpp"
    program.write_text(f"#include <smartio/{header}>\n#include <smartio/{header}>\n")
    flags = ["-std=c++23", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fno-exceptions",
             "-fno-rtti", "-fsyntax-only", "-H", f"-I{tree.prefix}/include"]
    done = subprocess.run([found(compiler), *flags, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"/(boost|fmt|nlohmann|asio)[/.]", done.stderr)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_an_older_language_is_one_error(tree, compiler, header, tmp_path):
    program = tmp_path / "program.cpp"
    program.write_text(f"#include <smartio/{header}>\nint main() {{}}\n")
    done = subprocess.run([found(compiler), "-std=c++20", "-fsyntax-only", f"-I{tree.prefix}/include", program],
                          capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode != 0 and len(errors) == 1 and "-std=c++23" in errors[0], done.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_program_is_built_by_pkg_config(tree, world, compiler, tmp_path):
    run(found(compiler), "-std=c++23", CONSUMERS / "main.cpp", "-o", tmp_path / "consumer",
        *tree.flags("--cflags", "--libs"))
    assert "libsmartio.so.0" in run("ldd", tmp_path / "consumer", env=tree.environment)
    works(world, tmp_path / "consumer", tree.environment)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_program_is_built_with_the_static_library(static_tree, world, compiler, tmp_path):
    run(found(compiler), "-std=c++23", CONSUMERS / "main.cpp", "-o", tmp_path / "consumer",
        *static_tree.flags("--static", "--cflags", "--libs"))
    assert "smartio" not in run("ldd", tmp_path / "consumer").replace(str(tmp_path), "")
    works(world, tmp_path / "consumer", None)


def test_a_program_is_built_by_cmake(tree, world, tmp_path):
    run("cmake", "-S", CONSUMERS, "-B", tmp_path, env=tree.environment)
    run("cmake", "--build", tmp_path, env=tree.environment)
    for name in ("consumer", "consumer_static"):
        works(world, tmp_path / name, tree.environment)


def test_cmake_is_told_what_is_not_installed(static_tree, tmp_path):
    done = subprocess.run(["cmake", "-S", CONSUMERS, "-B", tmp_path], env=static_tree.environment, capture_output=True,
                          text=True)
    told = " ".join(done.stderr.split())
    assert done.returncode != 0 and "smartio of smartio is not installed in" in told, told


def test_a_program_is_built_by_meson(tree, world, tmp_path):
    run("meson", "setup", tmp_path, CONSUMERS, env=tree.environment)
    run("ninja", "-C", tmp_path, env=tree.environment)
    works(world, tmp_path / "consumer", tree.environment)


GUIDE = re.findall(r"```cpp\n(.*?)```", (SOURCE / "docs" / "library.md").read_text(), re.S)
README = re.findall(r"```cpp\n(.*?)```", (SOURCE / "README.md").read_text(), re.S)
SAYS = [r"Non-Volatile memory controller: .*, first register [0-9a-f]+\n", r"model .{40}\n",
        r"snapshot\n(device-borrowed\n|loan-opened\n|loan-ended\n|device-\w+\n)*returned: node 8 returned it\n"]


@pytest.mark.parametrize("number", range(len(GUIDE)))
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_programs_of_the_guide_do_what_it_says(tree, world, compiler, number, tmp_path):
    file = tmp_path / "program.cpp"
    file.write_text(GUIDE[number])
    run(found(compiler), "-std=c++23", "-Wall", "-Wextra", "-Werror", file, "-o", tmp_path / "program",
        *tree.flags("--cflags", "--libs"))
    node, disk = world.node(8), world.disk()
    node.ok("add", disk.device)
    node.ok("available", disk.device)
    said = run(tmp_path / "program", node.run_dir, "80000", env=tree.environment)
    assert re.fullmatch(SAYS[number], said), said


@pytest.mark.parametrize("number", range(len(README)))
def test_the_programs_of_the_readme_compile(tree, number, tmp_path):
    file = tmp_path / "program.cpp"
    file.write_text(README[number])
    run("g++", "-std=c++23", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", file, *tree.flags("--cflags"))


def test_directories_out_of_the_prefix_are_found(tmp_path):
    run("meson", "setup", tmp_path, SOURCE, "-Dtests=false", "-Dsimulators=false", "-Ddefault_library=static",
        "--prefix=/opt/x", "--libdir=/usr/lib/x", "--includedir=/usr/include/x")
    pc = (tmp_path / "src" / "library" / "smartio.pc").read_text().splitlines()
    assert "libdir=/usr/lib/x" in pc and "includedir=/usr/include/x" in pc, pc
    assert "Libs: -L${libdir} -lsmartio -lfmt -lpci" in pc, pc


def test_a_loop_goes_round_while_a_lender_stands_still(tree, world, tmp_path):
    run("g++", "-std=c++23", "-O2", CONSUMERS / "poll_loop.cpp", "-o", tmp_path / "loop", *tree.flags("--cflags", "--libs"))
    lender, borrower, disk = world.node(8), world.node(4), world.disk()
    lend(lender, borrower, disk)
    lender.process.send_signal(signal.SIGSTOP)
    program = subprocess.Popen([tmp_path / "loop", borrower.run_dir, "80000"], env=tree.environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(2)  # it asks a lender that does not answer
    lender.process.send_signal(signal.SIGCONT)
    said, complaint = program.communicate(timeout=60)
    assert program.returncode == 0, complaint
    stalls, rounds = re.fullmatch(r"stalls (\d+) rounds (\d+)\n", said).groups()
    assert int(stalls) == 0 and int(rounds) > 100, said


def test_as_a_subproject_it_shows_only_its_public_headers(tmp_path):
    """What it compiles itself, the build of these tests does, too."""
    place = tmp_path / "program"
    shutil.copytree(CONSUMERS, place)
    (place / "subprojects").mkdir()
    (place / "subprojects" / "smartio").symlink_to(SOURCE)
    setup = ("meson", "setup", "--force-fallback-for=smartio", "-Dsmartio:bridge=false", "-Dsmartio:simulators=false")
    run(*setup, tmp_path / "build", place)
    built = run("ninja", "-C", tmp_path / "build", "-v", "consumer.p/main.cpp.o")
    includes = re.findall(r"-(?:I|isystem) ?(\S+)", built.splitlines()[-1])
    ours = [word for word in includes if "smartio" in word]
    assert ours and all(word.endswith("/subprojects/smartio/include") for word in ours), built
    targets = run("ninja", "-C", tmp_path / "build", "-t", "targets", "all")
    assert "/smartiod:" in targets and not re.search(r"smartio_sim|ntb/|_ntb_|tests/", targets)
