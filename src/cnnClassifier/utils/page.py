"""Reports from Jinja2 templates: HTML pages without scripts and other files, or Markdown."""

from importlib.resources import files
from pathlib import Path
from typing import Any


def render_template_file(package: str, name: str, **content: Any) -> str:
    """Render a template; the same content gives the same bytes.

    Args:
        package: the package that contains the template, such as `cnnClassifier.evaluation`.
        name: file name of the template. An HTML page extends `page.html`, which is the layout and
            style of all reports; its variables are escaped.
        content: variables of the template.
    """
    import jinja2

    folders = [Path(str(files(package))), Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(content)
