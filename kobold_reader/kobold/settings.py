"""The names of KoboldCpp's own settings, so that every message uses the same.

Most users start KoboldCpp through its launcher window and never see a command line; a remedy that names only the flag
does not help them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One setting of the server: its flag, and its field and tab in the launcher."""

    flag: str
    field: str
    tab: str

    def remedy(self, value: str = "") -> str:
        """Return what to do, for both kinds of user; continues a sentence that begins with "start it"."""
        with_value = f" {value}" if value else ""
        return f'with {self.flag}{with_value} (launcher: "{self.field}" in "{self.tab}")'


SETTINGS: Mapping[str, ServerSetting] = {
    "mmproj": ServerSetting("--mmproj", "Vision mmproj", "Loaded Files"),
    "visionmaxres": ServerSetting("--visionmaxres", "Vision MaxRes", "Loaded Files"),
    "embeddingsmodel": ServerSetting("--embeddingsmodel", "Embeds Model", "Loaded Files"),
    "chatcompletionsadapter": ServerSetting("--chatcompletionsadapter", "Chat Adapter", "Loaded Files"),
    "contextsize": ServerSetting("--contextsize", "Context Size", "Quick Launch"),
    "multiuser": ServerSetting("--multiuser", "Multiuser Queue", "Network"),
    "maxrequestsize": ServerSetting("--maxrequestsize", "Max Req. Size (MB)", "Network"),
    "password": ServerSetting("--password", "Password", "Network"),
}
"""By name; as the launcher of 2026 writes them (older ones: "Multiuser Mode", "LLaVA mmproj")."""
