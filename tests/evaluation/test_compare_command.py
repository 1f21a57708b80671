import pytest
from cnnClassifier.pipeline.compare import main

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.utils.errors import UserError
from tests.evaluation.test_comparison import evaluated, write
from tests.test_architecture import ROOT


def test_compares_two_folders_or_one_with_the_last_evaluation_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    manager = ConfigurationManager(ROOT / "config/config.yaml", ROOT / "params.yaml")
    manager.config.evaluation.bootstrap_samples = 20
    before = str(write(tmp_path / "before", evaluated(skill=0.5)))
    (tmp_path / "artifacts").mkdir()
    write(tmp_path / "artifacts/evaluation", evaluated(skill=2))

    main(manager, [before], None, markdown=False, page=None)
    alone = capsys.readouterr().out
    assert f"A: {before}\nB: artifacts/evaluation\n" in alone
    assert "B is better by more than chance" in alone
    page = tmp_path / "pages/comparison.html"
    main(manager, [before, "artifacts/evaluation"], ["main", "here"], markdown=True, page=page)
    assert capsys.readouterr().out.startswith(
        "### main (A) and here (B)\n\n**B is better by more than chance."
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(UserError, match="no folder, git revision"):
        main(manager, ["nothing"], None, markdown=False, page=None)
    assert not (tmp_path / "mlflow.db").exists()
