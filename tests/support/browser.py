"""A page as a person meets it: by labels and visible words."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from support.wait import eventually


class Browser:
    """The open page, with its waiting version article where there is one."""

    def __init__(self, chrome: webdriver.Chrome) -> None:
        self.chrome = chrome
        self.expected: list[str] = []
        """Parts of console messages that belong to the test: Chromium complains of each 4xx."""

    def open(self, url: str, model: str = "") -> None:
        """Open an address; `model` is NAME@VERSION of the version to show."""
        self.chrome.get("about:blank")
        self.chrome.get(url + (f"#{quote(model)}" if model else ""))

    def complaints(self) -> list[str]:
        """What the console says that no test expected."""
        messages = [entry["message"] for entry in self.chrome.get_log("browser")]
        return [text for text in messages if not any(part in text for part in self.expected)]

    def find(self, css: str) -> WebElement:
        """The first visible element, waited for."""

        def visible() -> WebElement | None:
            found = self.chrome.find_elements(By.CSS_SELECTOR, css)
            return next((element for element in found if element.is_displayed()), None)

        element = eventually(visible, 90, f"a visible {css}")
        assert element is not None
        return element

    def all(self, css: str) -> list[WebElement]:
        return [element for element in self.chrome.find_elements(By.CSS_SELECTOR, css) if element.is_displayed()]

    def field(self, name: str) -> WebElement:
        """The control that the label `name` belongs to, in the version that is shown."""

        def labelled() -> WebElement | None:
            for label in self.all("article .field label"):
                if label.text == name:
                    return self.chrome.find_element(By.ID, label.get_attribute("for") or "")
            return None

        element = eventually(labelled, 90, f"a field labelled {name}")
        assert element is not None
        return element

    def value(self, name: str) -> str:
        return str(self.field(name).get_property("value"))

    def type(self, name: str, text: str) -> None:
        control = self.field(name)
        control.clear()
        if text:
            control.send_keys(text)

    def pick(self, name: str, option: str) -> None:
        Select(self.field(name)).select_by_visible_text(option)

    def send(self) -> None:
        """Press Predict in the panel that is shown, and wait for what comes back."""
        self.chrome.execute_script(
            "for (const box of document.querySelectorAll('.result')) box.replaceChildren(document.createElement('i'))"
        )
        self.find("article form.panel .press-it").click()
        self.find(".answer .status")

    def press(self, css: str) -> None:
        self.find(css).click()

    def text(self, css: str) -> str:
        return self.find(css).text

    def wrong(self, name: str) -> str:
        """The message beside a field; "" when there is none."""
        control = self.field(name)
        note = self.chrome.find_element(By.ID, f"{control.get_attribute('id')}-wrong")
        return note.text if note.is_displayed() else ""

    def fill(self, css: str, value: str) -> None:
        """Put a value into a control at once, as pasting or choosing does."""
        script = """arguments[0].value = arguments[1];
                    for (const name of ['input', 'change']) arguments[0].dispatchEvent(new Event(name))"""
        self.run(script, self.find(css), value)

    def run(self, script: str, *values: Any) -> Any:
        return self.chrome.execute_script(script, *values)
