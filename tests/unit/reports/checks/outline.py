"""Pages of checks and their outline."""

from html.parser import HTMLParser

from vfmalign.reports.checks.page import PageSources, render


class Outline(HTMLParser):
    """Collects tags, addresses and text; complains about nesting."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.stack, self.text = [], [], [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def html_of(report, pictures=()):
    return render(report, PageSources(examples=pictures)).decode()
