"""What takes processes of the tests seconds to import: for `support.warm`, that looks for no name here."""
