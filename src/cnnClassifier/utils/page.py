"""Reports as pages that need nothing else: no script, no network, no other file."""

from importlib.resources import files
from typing import Any


def render_template_file(package: str, name: str, **content: Any) -> str:
    """Return a page; the same content gives the same bytes.

    Args:
        package: where the template lies.
        name: of the template, which extends `page.html`: frame and look that all reports share.
        content: what the template shows.
    """
    import jinja2

    sources = {"page.html": files("cnnClassifier.utils"), name: files(package)}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(
            {key: where.joinpath(key).read_text(encoding="utf-8") for key, where in sources.items()}
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(**content)
