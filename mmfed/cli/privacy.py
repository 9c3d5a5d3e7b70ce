"""stub"""
import typer
app = typer.Typer(name="privacy")
@app.command()
def x() -> None:
    """x"""
