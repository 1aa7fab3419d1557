def convert() -> None:
    "stub"
