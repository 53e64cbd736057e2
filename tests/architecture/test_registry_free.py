"""The project names no package registry and no path of one machine: it must install anywhere."""

import re
import subprocess

# One letter of each word stands in brackets, so that this file passes its own test.
FORBIDDEN = re.compile(
    r"https?://\S*(py[p]i|python[h]osted|npm[j]s|debia[n]\.org)"
    r"|--(extra-)?inde[x]-url|--find[-]links|--trusted[-]host"
    r"|(?<![\w.])/(roo[t]|hom[e]|wor[k])/\w",
    re.IGNORECASE,
)


def tracked_files(root):
    """Files of the work tree that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607  git is on the PATH
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    )
    return [root / name for name in listed.stdout.split("\0") if name]


def test_no_registry_and_no_machine_path_in_any_file(project_root):
    """No file names a registry's address, an index option or a home or work folder of one machine."""
    wrong = []
    for path in tracked_files(project_root):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # pictures and other binary files, files deleted but not yet committed
        wrong += [
            f"{path.relative_to(project_root)}:{n} {line[:120]}"
            for n, line in enumerate(lines, 1)
            if FORBIDDEN.search(line)
        ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_what_it_forbids():
    """The pattern finds an address, an option and a path, and leaves ordinary links alone."""
    assert FORBIDDEN.search("see https://" + "py" + "pi.org/simple")
    assert FORBIDDEN.search("pip install --index" + "-url x")
    assert FORBIDDEN.search("open('/ro" + "ot/data')")
    assert not FORBIDDEN.search("https://doi.org/10.1038/328324a0 and .contimg/work/today")
