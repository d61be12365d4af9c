"""The namespaces driver: what a sandbox is, how it ends, who may start one, and what is said when it can't be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError
from sandboxbuild.protocol.request import STORE_PATH
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.bundle import TARGET, Bundle, ensure_bundle
from sandboxbuild.runtimes.namespaces import NamespacesRuntime, NamespacesSandbox, id_ranges
from sandboxbuild.system import idmap
from tests.support.sandboxes import descendants, own

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return ensure_bundle(str(tmp_path_factory.mktemp("bundles")))


def spec(bundle: Bundle, code: str, *mounts: SandboxMount, **changes: object) -> SandboxSpec:
    plan = idmap.find()
    uids, gids = id_ranges(plan)
    made = SandboxSpec(
        "b", (*bundle.argv_prefix, "-c", code), bundle.environment, (SandboxMount(bundle.path, TARGET), *mounts),
        uids, gids, plan.identity, "none", "",
    )  # fmt: skip
    return made._replace(**changes)


def said_by(sandbox: NamespacesSandbox) -> tuple[int, str, str]:
    try:
        sandbox.stdin.close()
        out, err = sandbox.stdout.read().decode(), sandbox.stderr.read().decode()
        return sandbox.wait(20), out, err
    finally:
        sandbox.close()


def test_status_and_streams_are_the_executor_s(bundle: Bundle) -> None:
    code = "import sys; data = sys.stdin.read(); print('out' + data); print('err', file=sys.stderr); sys.exit(3)"
    sandbox = NamespacesRuntime().launch(spec(bundle, code))
    sandbox.stdin.write(b"in")
    assert said_by(sandbox) == (3, "outin\n", "err\n")


def test_a_signal_is_128_and_its_number(bundle: Bundle) -> None:
    assert said_by(NamespacesRuntime().launch(spec(bundle, "import os; os.kill(os.getpid(), 15)")))[0] == 143


def test_the_environment_is_exactly_what_was_given(bundle: Bundle) -> None:
    os.environ["CANARY"] = "seen"
    given = spec(bundle, "import os; print(dict(os.environ))", environment=(("A", "b"),))
    # The interpreter itself adds LC_CTYPE where no locale is set (PEP 538).
    assert said_by(NamespacesRuntime().launch(given))[1] in ("{'A': 'b'}\n", "{'A': 'b', 'LC_CTYPE': 'C.UTF-8'}\n")


def test_the_executor_is_its_identity_with_every_capability(bundle: Bundle) -> None:
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups(), os.umask(0), os.getsid(0) == os.getpid())"
    identity = (idmap.find().identity,) * 3
    assert said_by(NamespacesRuntime().launch(spec(bundle, code)))[1] == f"{identity} {identity} [] 18 True\n"


def test_no_descriptor_of_the_launcher_goes_in(bundle: Bundle, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        sandbox = NamespacesRuntime().launch(spec(bundle, "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])"))
        assert said_by(sandbox)[1] == "['0', '1', '2']\n"


def test_a_context_shows_its_owners_whoever_they_are(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("text")
    (tmp_path / "private").chmod(0o600)
    os.chown(tmp_path / "private", 1234, 65535)
    mount = SandboxMount(str(tmp_path), "/sandboxbuild/contexts/default", idmapped=True)
    code = "import os; p = '/sandboxbuild/contexts/default/private'; s = os.stat(p); print(s.st_uid, s.st_gid, open(p).read())"
    assert said_by(NamespacesRuntime().launch(spec(bundle, code, mount)))[1] == "1234 65535 text\n"


def test_what_the_executor_makes_in_the_store_belongs_to_no_host_user(bundle: Bundle, tmp_path: Path) -> None:
    plan = idmap.find()
    own(tmp_path, *id_ranges(plan), plan.identity)
    code = f"import os; open('{STORE_PATH}/a', 'w'); open('{STORE_PATH}/b', 'w'); os.chown('{STORE_PATH}/b', 0, 1000)"
    mount = SandboxMount(str(tmp_path), STORE_PATH, writable=True)
    assert said_by(NamespacesRuntime().launch(spec(bundle, code, mount)))[0] == 0
    owners = [
        (path.stat().st_uid - idmap.ROOT_BASE, path.stat().st_gid - idmap.ROOT_BASE) for path in sorted(tmp_path.iterdir())
    ]
    assert owners == [(plan.identity, plan.identity), (0, 1000)]


def test_every_module_of_the_sandbox_wing_can_be_imported_inside(bundle: Bundle) -> None:
    code = """
import importlib, os, sys
import isal.isal_zlib, backports.zstd, dockerfile_parse, ctypes, hashlib, lzma, bz2
top = os.path.dirname(importlib.import_module("sandboxbuild").__file__)
names = []
for folder, folders, files in os.walk(top):
    inside = os.path.relpath(folder, os.path.dirname(top)).replace("/", ".")
    names += [inside if n == "__init__.pyc" else inside + "." + n[:-4] for n in files if n.endswith(".pyc")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
foreign = {name.split(".")[0] for name in sys.modules} & {"pydantic", "click", "requests", "psutil", "pyseccomp", "h11", "ssl"}
print(len(names) > 40, sorted(foreign))
"""
    status, out, err = said_by(NamespacesRuntime().launch(spec(bundle, code)))
    assert (status, out, err) == (0, "True []\n", "")


def test_a_bundle_is_made_once_and_names_what_went_in(bundle: Bundle) -> None:
    folder = Path(bundle.path).parent
    before = os.stat(bundle.path).st_mtime_ns
    assert ensure_bundle(str(folder)) == bundle
    assert os.stat(bundle.path).st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([".lock", Path(bundle.path).name])
    names = {path.name for path in Path(bundle.path).rglob("*")}
    assert not names & {
        "pydantic",
        "click",
        "requests",
        "psutil",
        "pyseccomp",
        "cli",
        "gateway",
        "launcher",
        "ssl.pyc",
        "transport.pyc",
    }


def test_kill_ends_everything_at_once(bundle: Bundle) -> None:
    code = "import os, time\nos.fork()\nos.fork()\nprint('up', flush=True)\ntime.sleep(600)"
    sandbox = NamespacesRuntime().launch(spec(bundle, code))
    sandbox.stdout.read(3)
    below = descendants(sandbox.pid)
    assert len(below) >= 2
    sandbox.kill()
    sandbox.kill()
    assert sandbox.wait(10) == 137
    assert not [pid for pid in below if os.path.exists(f"/proc/{pid}")]
    sandbox.close()
    sandbox.close()


def test_waiting_has_an_end(bundle: Bundle) -> None:
    sandbox = NamespacesRuntime().launch(spec(bundle, "import time; time.sleep(600)"))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        sandbox.wait(0.05)
    assert time.monotonic() - started < 5
    sandbox.close()


def test_nothing_stays_mounted_or_open(bundle: Bundle) -> None:
    def state() -> tuple[str, list[str]]:
        return Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/proc/self/fd"))

    said_by(NamespacesRuntime().launch(spec(bundle, "pass")))
    before = state()
    for _ in range(3):
        said_by(NamespacesRuntime().launch(spec(bundle, "pass")))
    assert state() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"argv": ("/no/such",)}, "/no/such"),
        ({"mounts": (SandboxMount("/no/such/folder", "/x"),)}, "/no/such/folder"),
        ({"uid_ranges": (IdRange(0, 0, 65537), IdRange(0, 0, 65537))}, "ids can't be mapped"),
        ({"mounts": (SandboxMount("/proc", "/x", idmapped=True),)}, "mapped ids"),
    ],
)
def test_what_is_missing_is_said(bundle: Bundle, changes: dict[str, object], words: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(IsolationError, match=words) as caught:
        NamespacesRuntime().launch(spec(bundle, "pass", **changes))
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_missing_interpreter_is_said(bundle: Bundle) -> None:
    with pytest.raises(IsolationError, match="/no/python"):
        NamespacesRuntime(python="/no/python").launch(spec(bundle, "pass"))


_AS_USER = """
import os, sys, time
from pathlib import Path
from tests.support.sandboxes import Lab
lab = Lab(Path(sys.argv[1]), context=Path(sys.argv[2]))
print(lab.plan.mode, lab.plan.identity)
answer = lab.run("id -u; touch /x; chown 5:5 /x && echo chowned; cat /proc/self/uid_map | wc -l", **eval(sys.argv[3]))
print(answer.status, answer.output.split(), answer.message)
print(lab.python("import os; value = (os.getuid(), open('/sandboxbuild/contexts/default/f').read())"))
try:
    lab.python("open('/sandboxbuild/contexts/default/f', 'w')")
except RuntimeError as error:
    print("read-only" in str(error).lower() or "denied" in str(error))
lab.close()
"""

_NAMESPACE = """
mount --make-rprivate /
for name in passwd group subuid subgid; do mount --bind "$1/etc-$name" /etc/$name; done
shift
exec setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all "$@"
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """The user's folder: pytest closes its own to all but root, each time that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="sandboxbuild-user-"))
    os.chown(folder, 12345, 12345)
    yield folder
    shutil.rmtree(folder)


def as_user(folder: Path, subordinate: str, spec_text: str = "{}") -> list[str]:
    """Run _AS_USER as uid 12345 of a made-up /etc; its lines."""
    (folder / "etc-passwd").write_text(Path("/etc/passwd").read_text() + "tester:x:12345:12345::/tmp:/bin/sh\n")
    (folder / "etc-group").write_text(Path("/etc/group").read_text() + "tester:x:12345:\n")
    for name in ("subuid", "subgid"):
        (folder / f"etc-{name}").write_text(subordinate)
        if not os.path.exists(f"/etc/{name}"):
            pytest.skip(f"there is no /etc/{name} to cover")
    work, context = folder / "work", folder / "context"
    for made in (work, context):
        made.mkdir()
        os.chown(made, 12345, 12345)
    (context / "f").write_text("mine")
    os.chown(context / "f", 12345, 12345)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _NAMESPACE, "sh", folder, sys.executable, "-c", _AS_USER, work, context, spec_text],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_user_with_subordinate_ids_has_all_ids(reachable: Path) -> None:
    assert as_user(reachable, "tester:200000:65536\n") == [
        "range 65536",
        "0 ['0', 'chowned', '1'] ",
        "[65536, 'mine']",
        "True",
    ]


def test_ranges_in_pieces_serve_as_well(reachable: Path) -> None:
    lines = as_user(reachable, "tester:200000:30000\n12345:300000:40000\n")
    assert lines[:2] == ["range 65536", "0 ['0', 'chowned', '2'] "]


def test_a_user_without_subordinate_ids_has_one(reachable: Path) -> None:
    lines = as_user(reachable, "somebody:200000:65536\n")
    assert lines[0] == "single 0"
    assert "'0'" in lines[1]
    assert "chowned" not in lines[1]
    assert lines[3] == "True"


def test_another_user_in_single_mode_is_a_clear_error(reachable: Path) -> None:
    lines = as_user(reachable, "", "{'uid': 1000, 'gid': 1000}")
    assert lines[1].startswith("126 []")
    assert "no such id in this sandbox" in lines[1]
