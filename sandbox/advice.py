"""What would give more isolation on this machine, in one clause."""

from sandbox import kernel, landlock, seccomp

SWITCHES = {
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "/proc/sys/kernel/unprivileged_userns_clone": (
        "0",
        "as root: sysctl kernel.unprivileged_userns_clone=1",
    ),
    "/proc/sys/user/max_user_namespaces": ("0", "as root: sysctl user.max_user_namespaces=10000"),
}


def advice(level: str, switches: dict[str, tuple[str, str]] = SWITCHES) -> str:
    """How to get above `level`."""
    if not kernel.LINUX:
        return "only Linux has more: run the programs there (python -m sandbox serve)"
    if level == "full":
        return "it needs a control group that we may divide: run as root, or delegate one"
    if level == "restricted":
        for path, (value, remedy) in switches.items():
            if _read(path) == value:
                return remedy
        return "run where namespaces may be made (in a container: a profile that allows unshare)"
    if lacks := seccomp.available():
        return lacks
    if not landlock.abi():
        return "start the kernel with landlock among its lsm="
    return "docs/sandbox.md says what each level needs"


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:  # this kernel has no such switch
        return ""
