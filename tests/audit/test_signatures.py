"""Signing a trail off, and holding it to what was signed."""

import pytest

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")

from cryptography.hazmat.primitives import serialization as forms  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from rlrs.audit import AuditError, Trail, note, sign  # noqa: E402
from rlrs.audit.anchors import private_key, public_key  # noqa: E402


@pytest.fixture
def key():
    return ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def signed(tmp_path, key):
    """A trail that was signed after its third entry, and has a fourth; the key's public half in a file."""
    for name in ("x-a", "x-b"):
        note(tmp_path, name)
    sign(tmp_path, key, statement="into the large run")
    note(tmp_path, "x-after")
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "me.pub").write_bytes(public)
    return Trail(tmp_path)


def cut(trail, lines):
    trail.path.write_bytes(b"".join(trail.path.read_bytes().splitlines(keepends=True)[:lines]))


def test_a_signed_trail_is_intact_and_says_by_whom(signed):
    result = signed.verify(keys=[signed.folder / "me.pub"])
    assert result.intact
    assert result.notes == (f"signed up to entry 2 by {signed.folder / 'me.pub'}",)


def test_what_was_signed_cannot_be_cut(signed):
    cut(signed, 3)
    assert signed.verify().intact
    cut(signed, 2)
    (found,) = signed.verify().found
    assert (found.kind, found.entry) == ("truncated", 2)
    assert "the signature on line 1 of audit.sig states 3 entries" in found.what


def test_a_trail_written_anew_is_not_the_one_that_was_signed(signed):
    signed.path.unlink()
    for name in ("x-a", "x-b", "x-c", "x-d"):
        note(signed.folder, name)
    assert [(one.kind, one.entry) for one in signed.verify().found] == [("rewritten", 2)]


def test_a_key_that_did_not_sign_is_missed(signed, tmp_path):
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    path = tmp_path / "other.pub"
    path.write_bytes(other.public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH))
    assert [one.kind for one in signed.verify(keys=[path]).found] == ["signature"]


def test_without_its_signatures_the_key_is_missed(signed):
    (signed.folder / "audit.sig").unlink()
    assert signed.verify().intact
    assert [one.kind for one in signed.verify(keys=[signed.folder / "me.pub"]).found] == ["signature"]


def test_a_signature_moved_to_another_length_is_wrong(signed):
    path = signed.folder / "audit.sig"
    path.write_text(path.read_text().replace('"length":3', '"length":2'))
    (found,) = signed.verify().found
    assert found.kind == "signature"
    assert "not signed by the key that it names" in found.what


def test_two_may_sign(signed):
    sign(signed.folder, ed25519.Ed25519PrivateKey.generate(), statement="me too")
    result = signed.verify()
    assert result.intact
    assert len(result.notes) == 2


def test_a_damaged_signature_file_is_one_line(signed):
    (signed.folder / "audit.sig").write_text("{}\n")
    with pytest.raises(AuditError, match=r"audit\.sig, line 1: not a signature: anchor"):
        signed.verify()


def test_what_is_not_intact_is_not_signed(signed, key):
    signed.path.write_bytes(signed.path.read_bytes().replace(b"x-a", b"x-z"))
    with pytest.raises(AuditError, match="not signed, since it is not intact: entry 0"):
        sign(signed.folder, key, statement="no")


@pytest.mark.parametrize("form", ["PKCS8", "OpenSSH"])
@pytest.mark.parametrize("password", [None, b"sesame"])
def test_keys_of_openssl_and_openssh_are_read(tmp_path, key, form, password):
    lock = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    path = tmp_path / "me.pem"
    try:
        path.write_bytes(key.private_bytes(forms.Encoding.PEM, getattr(forms.PrivateFormat, form), lock))
    except Exception as error:
        if form == "OpenSSH" and password:
            pytest.skip(f"needs bcrypt: {error}")
        raise
    assert private_key(path, password).private_bytes_raw() == key.private_bytes_raw()
    if password:
        with pytest.raises(AuditError, match="needs a password"):
            private_key(path)


def test_what_is_no_ed25519_key_is_one_line(tmp_path):
    path = tmp_path / "me.pem"
    path.write_text("nothing")
    with pytest.raises(AuditError, match="not a private key"):
        private_key(path)
    with pytest.raises(AuditError, match="not a public key"):
        public_key(path)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    with pytest.raises(AuditError, match="not an Ed25519 key; `openssl genpkey"):
        private_key(path)
