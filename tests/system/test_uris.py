"""Credentials are removed from tracking URIs, wherever they are quoted."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine.url import make_url

from recon_worker.system.uris import without_credentials

SECRET = "canary"
ODD = "/?#&;:=%+ '\"()[]{}<>|\\~!$,"
TEXT = st.text(string.ascii_letters + string.digits + ODD, max_size=8)
SECRETS = st.builds(lambda before, after: before + SECRET + after, TEXT, TEXT)
NAMES = st.text(string.ascii_letters + string.digits + "_-.%+", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:canary@host.example/p", "https://host.example/p"),
        ("https://me:can/ary@host.example/p", "https://host.example/p"),
        ("postgresql://host.example/db?user=me&password=canary", "postgresql://host.example/db"),
        ("mysql://host.example/db?charset=utf8&Password=canary&timeout=3", "mysql://host.example/db?charset=utf8&timeout=3"),
        ("postgresql+psycopg2://me:c/a?n#a ry@host:5432/db?sslpassword=canary&sslmode=require", "postgresql+psycopg2://host:5432/db?sslmode=require"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BPWD%3Dcanary", "mssql+pyodbc:///"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER={ODBC Driver};PWD=canary", "mssql+pyodbc:///"),
        ("postgresql://me:c@na/ry@host/db", "postgresql://host/db"),
        ("at https://host.example/?token=canary : refused", "at https://host.example/ : refused"),
        ("https://host.example/p?page=2&api_key=canary", "https://host.example/p?page=2"),
        ("https://host.example/#access_token=canary", "https://host.example/"),
        ("wasbs://box@account.example/p?sv=1&sig=canary", "wasbs://account.example/p"),
        ("two: https://a.example/?x=canary and postgresql://me:canary@b/db", "two: https://a.example/ and postgresql://b/db"),
    ],
)  # fmt: skip
def test_credentials_are_removed_from_uris(uri, shown):
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Is it up? Set user=me & token=x & go?",
        "http://host.example:5000/p@v2",
        "http://host.example:5000/#/experiments/1/runs/ab?workflowType=machine_learning",
        "sqlite:////home/me@site/m.db?mode=ro",
        "s3://bucket/a:b@c",
        "file:///home/me@site",
        "is https://host.example/p the one?",
        "postgresql://host:5432/db failed (Background on this error at: https://sqlalche.me/e/20/e3q8)",
    ],
)
def test_a_text_without_credentials_is_unchanged(text):
    assert without_credentials(text) == text


@given(
    st.sampled_from(["postgresql", "mysql+pymysql", "mssql+pyodbc"]),
    SECRETS,
    st.sampled_from(["", ":5432"]),
    st.sampled_from(["", "/db", "/db?sslmode=require"]),
)
def test_no_password_that_sqlalchemy_takes_is_shown(scheme, password, port, rest):
    uri = f"{scheme}://me:{password}@host.example{port}{rest}"
    assert make_url(uri).host == "host.example"

    assert without_credentials(uri) == f"{scheme}://host.example{port}{rest}"
    assert SECRET not in without_credentials(f"cannot connect to '{uri}': refused")


@given(st.sampled_from(["https://host.example/p", "postgresql://host.example/db"]), NAMES, SECRETS)
def test_only_harmless_options_of_a_query_are_shown(uri, name, value):
    value = value.replace(" ", "+") if uri.startswith("https") else value
    assert SECRET not in without_credentials(f"{uri}?sslmode=require&{name}x={value}")
