"""Flaky tests are counted from the outcomes that `make test-all` keeps."""

import outcomes

# as pytest writes it
JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite
name="pytest" errors="0" failures="2" skipped="1" tests="4" time="0.1">
<testcase classname="tests.test_it" name="test_sometimes" time="0.1">{sometimes}</testcase>
<testcase classname="tests.test_it" name="test_always" time="0.1" />
<testcase classname="tests.test_it" name="test_skipped" time="0.1"><skipped
type="pytest.skip" message="no GPU">test_it.py:3: no GPU</skipped></testcase>
<testcase classname="tests.test_it" name="test_never" time="0.1"><error
message="failed on setup">E</error></testcase></testsuite></testsuites>"""
FAILED = '<failure message="assert False">E</failure>'


def test_a_test_that_failed_and_passed_at_one_commit_is_flaky(tmp_path, capsys):
    for name, sometimes in (("abc-1", FAILED), ("abc-2", ""), ("abc-3", ""), ("def-1", FAILED)):
        (tmp_path / f"{name}.xml").write_text(JUNIT.format(sometimes=sometimes))
    assert outcomes.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "abc: failed 1 of 3 runs: tests.test_it::test_sometimes",
        "number of flaky tests in 4 kept outcomes: 1",
    ]
    (tmp_path / "abc-1.xml").unlink()
    assert outcomes.main(tmp_path) == 0
