"""The profiles of boards, links and servers: their list, and fitting one to measurements."""

from pathlib import Path

import click

from hybrid.narrator import Terminal


@click.group(invoke_without_command=True)
@click.pass_context
def devices(ctx: click.Context) -> None:
    """List devices, links and cloud servers; calibrate a device."""
    if ctx.invoked_subcommand is None:
        list_profiles()


@devices.command()
@click.argument("measured", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Profile to start from: a name (see hybrid devices) or a TOML profile.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="TOML profile to write.")
def calibrate(measured: Path, device: str, out: Path) -> None:
    """Refit a device's profile from your own measurements on the board.

    MEASURED is a CSV with the columns model (path of a .tflite, from the CSV's folder), latency_ms and, if you have it,
    energy_mj. The profile goes where --device is asked for.
    """
    from hybrid import calibrate as fitting
    from hybrid import profiles

    start = profiles.device(device)
    if out.suffix != ".toml":
        raise click.UsageError(f"--out: got {str(out)!r}, allowed a path ending in .toml")
    rows = fitting.read_measurements(measured)
    done = fitting.calibrate(rows, start, out.stem)
    profiles.write_device(done.device, out)
    terminal = Terminal()
    shown = [(model, f"{100 * error:+.1f} %") for model, error in done.residuals.items()]
    terminal.table("Estimated against measured time", shown)
    terminal.say(fitting.told(done, start, len(rows)))
    terminal.say(f"Profile: {out}, good to ±{100 * done.device.latency_band:.0f} %")


def list_profiles() -> None:
    """Print the shipped profiles."""
    from hybrid import profiles

    terminal = Terminal()
    terminal.table(
        "Devices",
        [
            (d.name, d.title, f"{d.clock_mhz:g} MHz", f"{d.sram_bytes // 1024} KiB", f"{d.flash_bytes // 1024} KiB")
            for d in profiles.devices().values()
        ],
        ("name", "board", "clock", "SRAM", "flash"),
        texts=2,
    )
    terminal.table(
        "Links",
        [
            (k.name, k.title, f"{k.rtt_mean_ms:g} ms", f"{k.uplink_kbps:,g} kbit/s", f"{k.wake_mj + k.tail_mj:,.0f} mJ")
            for k in profiles.links().values()
        ],
        ("name", "link", "round trip", "uplink", "fixed energy"),
        texts=2,
    )
    terminal.table(
        "Cloud servers",
        [(s.name, s.title, f"{s.latency_ms:g} ms") for s in profiles.clouds().values()],
        ("name", "server", "one answer"),
        texts=2,
    )
