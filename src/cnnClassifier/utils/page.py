"""Reports as self-contained HTML pages: no script, no network, no other file."""

from importlib.resources import files
from typing import Any


def render_template_file(package: str, name: str, **content: Any) -> str:
    """Render a template of a package; the same content gives the same bytes.

    Args:
        package: that contains the template.
        name: of the template. It extends `page.html`, the layout of all reports.
        **content: variables of the template.
    """
    import jinja2

    templates = {
        "page.html": files("cnnClassifier.utils").joinpath("page.html").read_text("utf-8"),
        name: files(package).joinpath(name).read_text("utf-8"),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(**content)
