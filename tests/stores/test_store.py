"""Opening a store by its URL."""

import pytest

from headrace.errors import ConfigurationError
from headrace.stores import open_store


@pytest.mark.parametrize("url", ["mysql://host/db", "store.db", "", "sqlite", "/tmp/store.db"])
def test_an_unknown_scheme_names_the_known_ones(url):
    with pytest.raises(ConfigurationError, match=r"sqlite:///.*postgresql://.*redis://.*memory://") as caught:
        open_store(url, app="shop")
    assert caught.value.exit_code == 2


def test_the_message_hides_the_password():
    with pytest.raises(ConfigurationError) as caught:
        open_store("mysql://ann:secret@host/db", app="shop")
    assert "secret" not in str(caught.value)
