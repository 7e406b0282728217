"""A Sandbox as its caller sees it: options, refusals, waiting, failures of our own."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from sandbox import Busy, Result, Sandbox, SandboxError, pool
from sandbox.messages import FrameError
from tests.sandbox.processes import all_gone, children, eventually, kill, kin

ROOT = Path(__file__).resolve().parents[2]


def small(workers: int = 1, **options) -> Sandbox:
    return Sandbox(workers=workers, min_level="rlimits", preload=(), timeout=60, **options)


def command(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        input=stdin,
    )


def test_many_programs_at_once_get_their_own_answers(box):
    futures = [box.submit(f"print({n})") for n in range(60)]
    assert [future.result().stdout for future in futures] == [f"{n}\n" for n in range(60)]


def test_programs_of_many_threads_get_their_own_answers(box):
    answers: dict[int, str] = {}

    def ask(thread: int) -> None:
        for n in range(thread * 10, thread * 10 + 10):
            answers[n] = box.run(f"print({n})").stdout

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"{n}\n" for n in range(40)}


def test_an_answer_may_lead_to_the_next_question(box):
    last: Future[str] = Future()

    def go_on(done: "Future[Result]") -> None:
        if len(text := done.result().stdout.strip()) > 4:
            last.set_result(text)
        else:
            box.submit(f"print('{text}x')").add_done_callback(go_on)

    box.submit("print('x')").add_done_callback(go_on)
    assert last.result(timeout=60) == "xxxxx"


def test_the_constructor_does_not_wait():
    started = time.monotonic()
    with Sandbox(workers=1, min_level="rlimits") as box:
        assert time.monotonic() - started < 0.5  # importing sympy alone takes as long
        assert box.run("print(1)", timeout=60).stdout == "1\n"


def test_what_may_wait_is_bounded():
    with small(queue=2) as box:
        running = box.submit("import time; time.sleep(1)")
        assert eventually(lambda: box.load == (1, 0))
        waiting = [box.submit("print(1)") for _ in range(2)]
        assert box.load == (1, 2)
        with pytest.raises(Busy, match="2 jobs wait already"):
            box.submit("print(1)")
        assert running.result().status == "ok"
        assert [future.result().stdout for future in waiting] == ["1\n", "1\n"]
        assert box.run("print(2)").stdout == "2\n"
        assert eventually(lambda: box.load == (0, 0))


def test_a_second_attempt_needs_no_place_in_a_full_queue():
    with small(queue=1) as box:
        assert box.run("print(0)").stdout == "0\n"
        (slot,) = kin(box._link.pid)["slot"]
        running = box.submit("import time; time.sleep(1); print(1)")
        assert eventually(lambda: box.load == (1, 0))
        waiting = box.submit("print(2)")
        kill(slot)
        assert (running.result().stdout, waiting.result().stdout) == ("1\n", "2\n")


def test_a_future_cannot_be_cancelled(box):
    future = box.submit("print(1)")
    assert not future.cancel() and future.result().stdout == "1\n"


def test_a_program_whose_slot_dies_twice_is_our_failure_not_a_result():
    with small() as box:
        assert box.level
        future = box.submit("import time; time.sleep(600)")
        for _ in range(2):
            assert eventually(lambda: box.load == (1, 0) and kin(box._link.pid)["program"])
            time.sleep(0.5)  # it runs by now, rather than being forked ahead
            slots = [slot for slot in kin(box._link.pid)["slot"] if children(slot)]
            assert len(slots) == 1
            kill(slots[0])
            assert all_gone(slots)
        with pytest.raises(SandboxError, match="the sandbox failed: the slot ended") as caught:
            future.result()
        assert isinstance(caught.value.__cause__, pool.WorkerDied)
        assert box.run("print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_level": "full", "max_level": "rlimits"}, "'full' is above max_level 'rlimits'"),
        ({"min_level": "most"}, "min_level is 'most', expected one of rlimits, restricted"),
        ({"max_level": ""}, "max_level is '', expected one of"),
        ({"workers": 0}, "workers is 0, expected more than 0"),
        ({"timeout": 0}, "timeout is 0, expected more than 0"),
        ({"timeout": float("inf")}, "timeout is inf, expected"),
        ({"timeout": float("nan")}, "timeout is nan, expected"),
        ({"timeout": 1e7}, "timeout is 10000000.0, expected more than 0, at most 86400"),
        ({"memory_mb": -1}, "memory_mb is -1, expected"),
        ({"memory_mb": 31}, "memory_mb is 31, expected 32 at least"),
        ({"output_kb": 0}, "output_kb is 0, expected"),
        ({"scratch_mb": 0}, "scratch_mb is 0, expected"),
        ({"queue": 0}, "queue is 0, expected"),
        ({"memory_mb": 0.5}, "memory_mb is 0.5, expected a whole number"),
        ({"output_kb": 64.0}, "output_kb is 64.0, expected a whole number"),
        ({"cores": [{1}]}, "message is not JSON"),
        ({"workers": 100_000}, "are available here: fewer workers, or a smaller memory_mb"),
    ],
)
def test_wrong_options_are_refused_in_one_line_and_leave_nothing(options, words):
    before = kin(os.getpid()), os.listdir(tempfile.gettempdir())
    with pytest.raises((SandboxError, TypeError, FrameError)) as caught:
        Sandbox(**options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert (kin(os.getpid()), os.listdir(tempfile.gettempdir())) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": -1.0}, "timeout is -1.0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_wrong_arguments_are_refused(box, arguments, words):
    with pytest.raises(SandboxError, match=words):
        box.run("print(1)", **arguments)
    with pytest.raises(SandboxError, match=words):
        box.session(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"code": b"print(1)"}, "code is bytes, expected str"),
        ({"code": None}, "code is NoneType, expected str"),
        ({"stdin": b"x"}, "stdin is bytes, expected str"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(box, arguments, words):
    with pytest.raises(TypeError, match=f"^{words}$"):
        box.run(**{"code": "print(1)", **arguments})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["\ud800"], r"file name '\\ud800': expected text that UTF-8 can hold"),
        (["a/\udc80"], r"file name 'a/\\udc80': expected text"),
        (["../a"], "file name '../a': expected a relative path"),
        (["a//b"], "file name 'a//b': expected a relative path"),
        ([""], "file name '': expected a relative path"),
    ],
)
def test_file_names_that_cannot_be_are_refused_in_one_line(box, names, words):
    for arguments in ({"files": dict.fromkeys(names, b"x")}, {"fetch": names}):
        with pytest.raises(SandboxError, match=words) as caught:
            box.run("print(1)", **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [["a/b", "a"], ["a", "x", "a/b/c"], ["a/b", "a/b/c"]])
def test_a_file_cannot_be_a_folder_too_but_may_be_asked_for_as_both(box, names):
    with pytest.raises(SandboxError, match=r"^files: 'a(/b)?' cannot be a file and the folder of"):
        box.run("print(1)", files=dict.fromkeys(names, b"x"))
    assert box.run("print(1)", fetch=names).stdout == "1\n"


def test_files_beside_and_below_each_other_are_taken(box):
    files = {"a": b"1", "ab": b"2", "d/a": b"3", "d/e/a": b"4", "\u00e9": b"5"}
    assert dict(box.run("pass", files=files, fetch=list(files)).files) == files


@pytest.mark.parametrize(
    ("preload", "words"),
    [
        (("no_such_module",), "preload asks for 'no_such_module', which .* does not have"),
        (("json", "this_is_none"), "'this_is_none'"),
    ],
)
def test_a_module_that_is_not_there_is_one_line_at_the_first_use(preload, words):
    with Sandbox(workers=1, min_level="rlimits", preload=preload) as box:
        for _ in range(2):
            with pytest.raises(SandboxError, match=words) as caught:
                box.run("print(1)")
            assert "\n" not in str(caught.value)
        with pytest.raises(SandboxError, match=words):
            print(box.level)
        with pytest.raises(SandboxError, match=words), box.session() as session:
            session.run("print(1)")


def test_a_module_that_does_not_import_costs_only_what_needs_it():
    windows = "encodings.mbcs"
    with Sandbox(workers=1, min_level="rlimits", preload=(windows, "json"), timeout=60) as box:
        assert box.run("print(1)").stdout == "1\n"
        with pytest.raises(SandboxError, match=f"{windows} of preload does not import: ") as caught:
            box.run("import json")
        assert "\n" not in str(caught.value)
        assert box.run("print(2)").stdout == "2\n"


def test_nothing_works_once_it_is_closed():
    box = small()
    assert box.run("print(1)").stdout == "1\n"
    box.close()
    for use in (lambda: box.run("print(1)"), lambda: box.level, lambda: box.session().run("1")):
        with pytest.raises(SandboxError, match="closed"):
            use()


def test_the_report_says_how_everything_was_proven(box):
    report = box.report
    assert (report["level"], report["why"]) == (box.level, box.why)
    assert report["plan"] and "\n" not in report["plan"] + report["why"]
    names = {"network", "files", "processes", "privileges", "system calls"}
    names |= {"own processes", "disk", "memory in sum"}
    assert set(report["protections"]) == names
    assert all(isinstance(proof, str) for proof in report["protections"].values())


def test_check_and_run_on_the_command_line(tmp_path):
    checked = command("check", "--preload", "")
    assert checked.returncode == 0 and checked.stdout.startswith("level ")
    for limit in ("time", "output"):
        row = next(line for line in checked.stdout.splitlines() if line.split()[0] == limit)
        assert row.split()[1] == "yes", row
    file = tmp_path / "file.py"
    file.write_text("print(input())\n1 / 0\n")
    (tmp_path / "in").write_text("hello\n")
    options = ("--preload", "", "--min-level", "rlimits")
    ran = command("run", str(file), *options, "--stdin", str(tmp_path / "in"))
    assert (ran.returncode, ran.stdout) == (1, "hello\n")
    assert "line 2, in <module>" in ran.stderr and "[error, exit code 1" in ran.stderr
    piped = command("run", "-", *options, stdin="print(7)")
    assert (piped.returncode, piped.stdout) == (0, "7\n")


def test_the_command_line_refuses_in_one_line(tmp_path):
    missing = command("run", str(tmp_path / "none.py"))
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
    (tmp_path / "file.py").write_text("print(1)")
    above = command("run", str(tmp_path / "file.py"), "--max-level", "rlimits")
    assert above.returncode == 2 and above.stdout == "" and above.stderr.count("\n") == 1
    assert "--timeout" in command("run", "--help").stdout


def test_a_sandbox_can_be_made_beside_another(box):
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(small()) for _ in range(2)]
        answers = [other.submit(f"print({n})") for n, other in enumerate([box, *others])]
        assert [answer.result().stdout for answer in answers] == ["0\n", "1\n", "2\n"]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with small() as made:
        yield made


def test_a_forked_process_neither_uses_nor_ends_its_parents_sandbox(box):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with box:
                box.run("print(1)")
        except SandboxError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    with open(told) as file:
        assert f"of process {os.getpid()}, from which this one was forked" in file.read()
    assert box.run("print(2)").stdout == "2\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_callback_raises_costs_no_other_job(box):
    for kind in (SystemExit, KeyboardInterrupt, ValueError):

        def fail(_: object, kind: type[BaseException] = kind) -> None:
            raise kind

        box.submit("").add_done_callback(fail)
        assert box.submit("print(1)").result(60).stdout == "1\n"


def test_a_callback_that_would_wait_is_told_so(box):
    found: Future[BaseException | None] = Future()

    def wait(_: object) -> None:
        try:
            box.run("")
        except SandboxError as error:
            found.set_result(error)

    box.submit("").add_done_callback(wait)
    assert "use submit" in str(found.result(60))


def test_a_refused_start_leaves_nothing_even_where_nobody_closes(tmp_path):
    code = "from sandbox import Sandbox\nbox = Sandbox(preload=['nosuch'])\n"
    code += "for n in range(3):\n  try: box.run('1')\n  except Exception as e: print(e); last = e\n"
    code += "n, t = 0, last.__traceback__\nwhile t: n, t = n + 1, t.tb_next\nprint(n)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    first, second, third, depth = run.stdout.splitlines()
    assert first == second == third and "'nosuch'" in first
    assert int(depth) < 12
    assert eventually(lambda: os.listdir(tmp_path) == [])
