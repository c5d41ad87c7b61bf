"""Preloaded interpreters behave like processes that `subprocess.Popen` starts."""

import signal
import subprocess
import sys

import psutil
import pytest
from tests.preloaded import ROOT, get_command

MANY_FILES = """
import json, os, resource, socket
from tests.preloaded import attend

resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
starter, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
request = [["-c", "import sys; sys.exit(3)"], os.getcwd(), dict(os.environ)]
socket.send_fds(starter, [json.dumps(request).encode()], [0, 1, 2])
if os.fork() == 0:
    attend(server.dup())
server.close()
pid, status = (int.from_bytes(starter.recv(4), "little") for _ in range(2))
print(os.waitstatus_to_exitcode(status))
"""


def run(python, code, *arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return python([sys.executable, "-c", code, *arguments], **(pipes | options))


@pytest.mark.parametrize(
    ("code", "status", "log"),
    [
        ("print('x')", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_the_exit_code_and_the_output_are_those_of_python(python, code, status, log):
    process = run(python, code)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == ("x\n" if status == 0 else "")
    assert log in err


def test_arguments_environment_and_folder_are_passed(python, tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.environ['A'], os.getcwd(), len(os.environ), 'torch' in sys.modules)"
    out, _ = run(python, code, "b", "c", env={"A": "1"}, cwd=tmp_path).communicate(timeout=60)
    assert out == f"['b', 'c'] 1 {tmp_path} 1 True\n"


def test_a_signal_is_the_return_code(python):
    process = run(python, "import time; print('up', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "up\n"
    assert process.poll() is None
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()


def test_the_process_ends_with_the_one_that_started_it(python):
    process = run(python, "import time; print('up', flush=True); time.sleep(60)")
    child = psutil.Process(process.pid)
    process._connection.close()
    assert child.wait(60) is None
    process.returncode = 0
    process.communicate()


def test_a_server_with_many_open_files_waits_for_its_processes():
    done = subprocess.run(
        [sys.executable, "-c", MANY_FILES], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.fixture
def run_command(python_server):
    """Runs code by the command line that starts a fork, and returns the process that stands for it."""

    def run(code):
        command = get_command(python_server, ["-c", code])
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def test_a_command_ends_as_its_program_does(run_command):
    process = run_command("import sys; print('x'); sys.exit(3)")
    assert process.communicate(timeout=60) == ("x\n", "")
    assert process.returncode == 3
    process = run_command("import os; os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_command_passes_signals_on(run_command):
    handle = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    # `signal.pause` would sleep on if the signal came just before it.
    loop = "while True: time.sleep(0.1)"
    process = run_command(f"import signal, sys, time\n{handle}\nprint('up', flush=True)\n{loop}")
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.wait(60) == 7
    process.communicate()


def test_a_command_takes_its_program_along_when_it_is_killed(run_command):
    process = run_command("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    program = psutil.Process(int(process.stdout.readline()))
    assert program.pid != process.pid
    process.kill()
    program.wait(60)
    process.communicate()
