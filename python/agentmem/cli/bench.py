"""`agentmem bench`."""

import sys

import click

from agentmem.cli.corpus import corpus_option
from agentmem.cli.output import Output, with_output

_ALL = "all"


@click.command()
@click.argument("names", metavar="NAME|all", nargs=-1, required=False)
@click.option("--quick", is_flag=True, help="A small part of each, to see that it runs.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@corpus_option
@with_output
def bench(
    output: Output, names: tuple[str, ...], quick: bool, seed: int, corpus: tuple[str, ...]
) -> None:
    """Measure one promise, or all of them; without a name, list what there is."""
    from agentmem.bench import BENCHMARKS, run
    from agentmem.bench.result import Settings

    if not names:
        output.table(
            ["name", "what it measures"], [[name, BENCHMARKS[name]] for name in BENCHMARKS]
        )
        return
    chosen = list(BENCHMARKS) if _ALL in names else list(names)
    for name in chosen:
        if name not in BENCHMARKS:
            raise click.UsageError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    settings = Settings(quick, seed, corpus)
    for name in chosen:
        output.message(f"{name}: {BENCHMARKS[name]} ...")
        result = run(name, settings)
        if output.json:
            output.record(result.as_record(name, settings))
            sys.stdout.flush()
            continue
        output.table(
            [name, "", "", "must reach", ""],
            [
                [
                    figure.name,
                    f"{figure.value:,.3g}" if figure.value < 100 else f"{figure.value:,.0f}",
                    figure.unit,
                    "" if figure.goal is None else _goal(figure.goal, figure.is_limit),
                    {None: "", True: "yes", False: "NO"}[figure.is_met],
                ]
                for figure in result.figures
            ],
            right=[""],
        )
        for note in result.notes:
            click.echo(f"note: {note}")
        click.echo(f"digest {result.digest}\n")


def _goal(goal: float, is_limit: bool) -> str:
    return f"{'at most' if is_limit else 'at least'} {goal:,g}"
