"""The outbox as the simulator's operations leave it: which content lies where, and how often it may be signed."""

from dataclasses import dataclass, field

from tests.support.sandbox import sha256


@dataclass(eq=False, slots=True)
class Version:
    """One content of one file.

    Attributes:
        digest: its SHA-256.
        size: in bytes.
        places: under how many paths it came to lie; under each it may have to be signed.
        interruptions: how many there were before it was written; each later one may cost a signature.
        is_half: its writer holds the file open, so it is not to be signed.
    """

    digest: str = ""
    size: int = 0
    places: int = 0
    interruptions: int = 0
    is_half: bool = False


@dataclass(eq=False, slots=True)
class File:
    """An inode, with its present version."""

    version: Version = field(default_factory=Version)


@dataclass
class Tree:
    """The outbox as the operations left it.

    Attributes:
        files: by relative path; hard links share a `File`.
        directories: relative paths.
        specials: symbolic links and FIFOs.
        outside: directories that were moved out, by name: their files and their directories.
        writing: paths as they were when a writer opened them, and the file it still holds.
        versions: all there ever were, by digest.
        interruptions: kills and outages so far.
    """

    files: dict[str, File] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    specials: set[str] = field(default_factory=set)
    outside: dict[str, tuple[dict[str, File], set[str]]] = field(default_factory=dict)
    writing: dict[str, File] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    interruptions: int = 0

    def place(self, path: str, file: File) -> None:
        """Have a file lie at a path, whatever lay there before."""
        self.files[path] = file
        file.version.places += 1

    def write(self, file: File, content: bytes, *, half: bool = False) -> None:
        """Give a file, wherever it lies, another content."""
        places = sum(1 for other in self.files.values() if other is file)
        file.version = Version(sha256(content), len(content), places, self.interruptions, half)
        self.versions[file.version.digest] = file.version

    def take(self, top: str) -> tuple[dict[str, File], set[str]]:
        """Remove a directory; return what was in it, relative to it; links and FIFOs do not outlive that."""
        prefix = top + "/"
        files = {path[len(prefix) :]: file for path, file in self.files.items() if path.startswith(prefix)}
        below = {path[len(prefix) :] for path in self.directories if path.startswith(prefix)}
        self.files = {path: file for path, file in self.files.items() if not path.startswith(prefix)}
        self.directories = {path for path in self.directories if path != top and not path.startswith(prefix)}
        self.specials = {path for path in self.specials if not path.startswith(prefix)}
        return files, below

    def put(self, top: str, files: dict[str, File], below: set[str]) -> None:
        """Put a directory, with what is in it, at a path."""
        self.directories |= {top, *(f"{top}/{path}" for path in below)}
        for path, file in files.items():
            self.place(f"{top}/{path}", file)
