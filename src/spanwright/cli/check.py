def check() -> None:
    "stub"
