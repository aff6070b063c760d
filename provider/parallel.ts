/** A virsh is a process each, and a guest agent that is silent takes seconds to be given up. */
const AT_A_TIME = 8;

/** Does the same for all, some at a time; the answers are in the order of what was given. */
export async function forEach<T, R>(all: readonly T[], act: (one: T) => Promise<R>): Promise<R[]> {
  const answers: R[] = [];
  const left = all.entries();
  const worker = async (): Promise<void> => {
    for (const [index, one] of left) answers[index] = await act(one);
  };
  await Promise.all(Array.from({ length: Math.min(AT_A_TIME, all.length) }, worker));
  return answers;
}
