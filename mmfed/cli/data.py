"""stub"""
import typer
app = typer.Typer(name="data")
@app.command()
def x() -> None:
    """x"""
