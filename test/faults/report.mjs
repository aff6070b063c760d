// Counts by kill point.
export class Report {
  bad = 0;
  missed = 0;
  #kills = [];

  add(kill) {
    if (kill.wrong.length > 0) this.bad++;
    if (kill.at === undefined) this.missed++;
    else this.#kills.push(kill);
  }

  summary(seconds) {
    const rows = new Map();
    for (const { target, at, back, wrong } of this.#kills) {
      const key = `${target}\t${at}`;
      const row = rows.get(key) ?? { target, at, kills: 0, forward: 0, back: 0, wrong: 0 };
      row.kills++;
      if (wrong.length > 0) row.wrong++;
      else if (back) row.back++;
      else row.forward++;
      rows.set(key, row);
    }
    const sorted = [...rows.values()].sort((a, b) => a.target.localeCompare(b.target) || a.at.localeCompare(b.at));
    return {
      kills: this.#kills.length,
      notReached: this.missed,
      wrong: this.bad,
      seconds: Math.round(seconds),
      rows: sorted,
    };
  }

  table(seconds) {
    const { kills, notReached, wrong, rows } = this.summary(seconds);
    const width = Math.max(...rows.map(({ at }) => at.length), 2);
    const lines = rows.map((row) =>
      [
        row.target.padEnd(16),
        row.at.padEnd(width),
        ...[row.kills, row.forward, row.back, row.wrong].map((n) => String(n).padStart(7)),
      ].join(" "),
    );
    const head = [
      "killed".padEnd(16),
      "at".padEnd(width),
      ...["kills", "on", "back", "wrong"].map((n) => n.padStart(7)),
    ].join(" ");
    return `${[head, ...lines].join("\n")}\n\n${kills} kills in ${Math.round(seconds)} s, ${notReached} more not reached, ${wrong} wrong`;
  }
}
