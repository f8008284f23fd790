"""Redaction removes secrets from URLs and pipe commands and keeps the locations."""

import pytest
from jsonargparse import Namespace

from datamodules.redaction import MARK, check_complete, redacted

SECRET = "t0pS3cret"
QUERY = f"?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}%2Fus"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"https://host/a-{{000..002}}.tar{QUERY}", "https://host/a-{000..002}.tar?MARK"),
        (f"https://anna:{SECRET}@host/a.tar", "https://MARK@host/a.tar"),
        (f"https://anna:p@{SECRET}@host:8080/a.tar{QUERY}", "https://MARK@host:8080/a.tar?MARK"),
        (f"s3://{SECRET}@bucket/a.tar#{SECRET}", "s3://MARK@bucket/a.tar#MARK"),
        (
            f"https://h/a{QUERY}::https://i/b{QUERY}::/data/c.tar",
            "https://h/a?MARK::https://i/b?MARK::/data/c.tar",
        ),
        (f"--data.urls=HTTPS://h/a.tar{QUERY}", "--data.urls=HTTPS://h/a.tar?MARK"),
        (f"https://h/a.tar{QUERY}: unreadable shard (404)", "https://h/a.tar?MARK: unreadable shard (404)"),
        (f"see (https://h/{QUERY}), or", "see (https://h/?MARK), or"),
        (f'{{"urls": "https://h/a{QUERY}", "seed": 1}}', '{"urls": "https://h/a?MARK", "seed": 1}'),
        (
            f"pipe:curl -s 'https://u:{SECRET}@h/a{QUERY}' | tee x",
            "pipe:curl -s 'https://MARK@h/a?MARK' | tee x",
        ),
        (f"pipe:curl -sH 'Authorization: Bearer {SECRET}' http://h/a", "pipe:curl -sH MARK http://h/a"),
        (f'pipe:curl -H "X-Key: {SECRET} {SECRET}" -s http://h/a', "pipe:curl -H MARK -s http://h/a"),
        (
            f"pipe:curl --header=X-Key:{SECRET} --user anna:{SECRET} a",
            "pipe:curl --header=MARK --user MARK a",
        ),
        (
            f"pipe:AWS_SECRET_ACCESS_KEY={SECRET} aws s3 cp a -",
            "pipe:AWS_SECRET_ACCESS_KEY=MARK aws s3 cp a -",
        ),
        (f"pipe:sh -c curl Authorization: Bearer {SECRET} h", "pipe:sh -c curl Authorization: Bearer MARK h"),
        (
            f"pipe:fetch --api-key {SECRET} --token={SECRET} a.tar",
            "pipe:fetch --api-key MARK --token=MARK a.tar",
        ),
        (f'["pipe:curl -H \\"Authorization: Bearer {SECRET}\\" a"]', '["pipe:curl -H MARK a"]'),
    ],
)
def test_secrets_are_removed_and_locations_kept(text, kept):
    kept = kept.replace("MARK", MARK)
    assert redacted(text) == kept
    assert redacted(kept) == kept
    with pytest.raises(ValueError, match=r"^--data\.urls=.*give the whole URL again: --data\.urls=\.\.\.$"):
        check_complete({"seed": 1, "data.urls": kept})


@pytest.mark.parametrize(
    "text",
    [
        "/data/pairs-{000000..000041}.tar",
        "s3://bucket/pairs-{000..041}.tar",
        "pipe:cat /data/pairs-{000..041}.tar",
        "pipe:aws s3 cp s3://bucket/a.tar -",
        "pipe:cat /tokens /authors/a.tar b.tar",
        "https://host/a.tar::https://host/b.tar",
        "https://arxiv.org/abs/2603.05421.",
        "user@host",
        "what? http",
        "a <b> c",
        "",
    ],
)
def test_text_without_secrets_is_unchanged(text):
    assert redacted(text) == text
    check_complete({"data.urls": text})


def test_structures_keep_their_types():
    config = Namespace(
        data=Namespace(urls=f"http://h/a{QUERY}", sizes=[1, None]),
        callbacks=[Namespace(x=f"http://h/{QUERY}")],
    )
    found = redacted(config)
    assert SECRET in str(config)
    assert found == Namespace(
        data=Namespace(urls=f"http://h/a?{MARK}", sizes=[1, None]),
        callbacks=[Namespace(x=f"http://h/?{MARK}")],
    )
    assert redacted({"a": [f"http://h/?{SECRET}", 2.5, True]}) == {"a": [f"http://h/?{MARK}", 2.5, True]}
