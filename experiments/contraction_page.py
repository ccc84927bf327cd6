from pathlib import Path
PAGE = Path("x")
def page() -> str: return ""
